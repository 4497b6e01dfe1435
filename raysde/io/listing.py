"""Sizes and entity tags of the files in a folder, from listings: about one request per 1,000 objects."""

import importlib.util
import itertools
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow.fs as pafs

from raysde.io.filesystems import open_filesystem

PAGE = 1000
"""Largest number of objects in a response of S3."""
LISTERS = 16
"""Number of listings at a time."""


@dataclass(frozen=True)
class Listed:
    """A file in a listing: its size in bytes, and its entity tag if the store tells it."""

    size: int
    etag: str | None = None


def lists_etags(path: str) -> bool:
    """Return True if listings of a path tell entity tags: on s3:// where boto3 is installed."""
    return path.startswith("s3://") and importlib.util.find_spec("boto3") is not None


def list_files(folder: str, names: Sequence[str]) -> dict[str, Listed]:
    """Return the files among ``names`` that are in a folder or below a URI; missing ones are left out.

    Raises:
        OSError: if the store cannot be listed.
    """
    if lists_etags(folder):
        return _list_objects(folder, sorted(set(names)))
    system, inside = open_filesystem(folder)
    wanted = set(names)
    found = system.get_file_info(pafs.FileSelector(inside, allow_not_found=True))
    return {
        info.base_name: Listed(info.size)
        for info in found
        if info.type == pafs.FileType.File and info.base_name in wanted
    }


def _list_objects(folder: str, names: Sequence[str]) -> dict[str, Listed]:
    """Return the objects among the sorted ``names``; ranges of names are listed in parallel."""
    from botocore.exceptions import BotoCoreError, ClientError

    client = connect_s3(folder)
    parts = min(LISTERS, -(-len(names) // PAGE))
    cuts = [len(names) * part // parts for part in range(parts + 1)] if parts else [0]
    try:
        with ThreadPoolExecutor(LISTERS) as pool:
            ranges = itertools.pairwise(cuts)
            listings = list(pool.map(lambda cut: dict(_list_range(client, folder, names, *cut)), ranges))
    except (BotoCoreError, ClientError) as error:
        raise OSError(f"{folder} cannot be listed: {' '.join(str(error).split())}") from error
    return {name: listed for listing in listings for name, listed in listing.items()}


def _list_range(client: Any, folder: str, names: Sequence[str], first: int, stop: int) -> Iterator[tuple[str, Listed]]:
    """Yield the objects among ``names[first:stop]``, which are sorted as S3 sorts them, by Unicode code point."""
    bucket, prefix = _locate(folder)
    after = {"StartAfter": prefix + names[first - 1]} if first else {}
    # with a delimiter, the many objects of a folder of embeddings inside are one entry
    pages = client.get_paginator("list_objects_v2").paginate(
        Bucket=bucket, Prefix=prefix, Delimiter="/", PaginationConfig={"PageSize": PAGE}, **after
    )
    for page in pages:
        for each in page.get("Contents", ()):
            name = each["Key"].removeprefix(prefix)
            place = bisect_right(names, name, first, stop) - 1
            if place >= first and names[place] == name:
                yield name, Listed(each["Size"], each["ETag"].strip('"'))
            if name >= names[stop - 1]:
                return


def _locate(folder: str) -> tuple[str, str]:
    """Return the bucket and the prefix of the objects of a folder."""
    parts = urlsplit(folder)
    key = unquote(parts.path).strip("/")
    return parts.netloc.rpartition("@")[2], f"{key}/" if key else ""


def connect_s3(path: str) -> Any:
    """Return a boto3 client for an s3:// URI with the options and credentials that pyarrow takes from it.

    Credentials that the URI does not name come from the environment, as for pyarrow.
    """
    import boto3  # not a dependency of raysde: see lists_etags
    from botocore.config import Config

    parts = urlsplit(path)
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    endpoint = options.get("endpoint_override")
    if endpoint and "://" not in endpoint:
        endpoint = f"{options.get('scheme', 'https')}://{endpoint}"
    user, password = (value and unquote(value) for value in (parts.username, parts.password))
    verify = options.get("tls_verify_certificates", "true").lower() not in ("false", "0")
    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint,
        region_name=options.get("region"),
        aws_access_key_id=user,
        aws_secret_access_key=password,
        verify=options.get("tls_ca_file_path") or (None if verify else False),
        config=Config(
            max_pool_connections=LISTERS,
            retries={"mode": "standard", "max_attempts": 5},
            s3={"addressing_style": "path"} if endpoint else None,
        ),
    )
