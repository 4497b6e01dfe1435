"""Byte ranges of files by path or URI, one request each.

pyarrow asks for the size of an object before it reads any of its bytes. Ranges of s3:// and gs:// therefore come from
obstore, which sends one GET, with the options and credentials that pyarrow would use. pyarrow reads other ranges:

- of local files and of other file systems, such as hdfs://;
- of a bucket that obstore cannot read as pyarrow does, see :func:`raysde.io.object_clients.open_client`;
- in a process forked from one that has used obstore, whose threads do not survive the fork.

pyarrow also reads each range that obstore failed to read, since it knows more sources of credentials. If the first
range of a bucket is one of them, pyarrow reads all ranges of this bucket in this process.
"""

import os
from dataclasses import dataclass
from functools import cache, lru_cache
from threading import Lock
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pyarrow as pa
from obstore.exceptions import BaseError
from obstore.store import GCSStore, S3Store

from raysde.io.filesystems import credential_settings, open_filesystem, split_bucket
from raysde.io.object_clients import open_client

if TYPE_CHECKING:
    from obstore import Bytes

CONNECTING = Lock()


@dataclass
class Bucket:
    """A bucket as one process reads it.

    Attributes:
        client: obstore's client.
        works: True once the client has read a range, False once pyarrow has read the first range instead; None before.
    """

    client: S3Store | GCSStore
    works: bool | None = None


def read_range(path: str, start: int, length: int) -> pa.Buffer:
    """Read ``length`` bytes of a file, from byte ``start`` on.

    Args:
        path: local path or URI.

    Raises:
        FileNotFoundError: if the file does not exist.
        OSError: naming the file, if it cannot be read or ends before the range does.
        ValueError: if pyarrow does not support the URI.
    """
    uri, key = split_bucket(path) or ("", "")
    where = f"{urlsplit(uri).scheme}://{urlsplit(uri).hostname}{key}" if uri else path
    bucket = _find_bucket(uri) if uri else None
    found = None if bucket is None else _request(bucket, key, start, length, where)
    content = _read_by_pyarrow(path, start, length, where) if found is None else found
    if len(content) != length:
        raise OSError(f"{where} is too short: {len(content)} of {length} bytes from byte {start} on")
    if bucket is not None and bucket.works is None:
        bucket.works = found is not None
    return pa.py_buffer(content)


def _request(bucket: Bucket, key: str, start: int, length: int, where: str) -> "Bytes | None":
    """Return a range of an object, whose key follows a slash; None if obstore cannot read it.

    Raises:
        FileNotFoundError: if the object does not exist.
    """
    if bucket.works is False or key.startswith("//"):
        return None
    try:
        return bucket.client.get_range(key[1:], start=start, length=length)
    except FileNotFoundError:
        raise FileNotFoundError(f"{where} does not exist") from None
    except (BaseError, ValueError):  # a ValueError for keys with empty parts
        return None


def _read_by_pyarrow(path: str, start: int, length: int, where: str) -> bytes:
    system, inside = open_filesystem(path)
    try:
        with system.open_input_file(inside) as source:
            return bytes(source.read_at(length, start))
    except FileNotFoundError:
        raise FileNotFoundError(f"{where} does not exist") from None
    except OSError as error:
        raise OSError(f"{where} cannot be read: {' '.join(str(error).split())}") from error


def _find_bucket(uri: str) -> Bucket | None:
    """Return a bucket that obstore can read in this process, or None."""
    if os.getpid() != _first_process():
        return None
    with CONNECTING:
        return _open_bucket(uri, credential_settings())


@cache
def _first_process() -> int:
    """Return the number of the process that used obstore first; forked processes find that of their parent."""
    return os.getpid()


@lru_cache(maxsize=32)
def _open_bucket(uri: str, settings: tuple[tuple[str, str], ...]) -> Bucket | None:
    client = open_client(uri)
    return None if client is None else Bucket(client)
