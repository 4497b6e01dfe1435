"""Verification of a data set's files before a run: by hashes, by sizes and schemas, or by a listing of the folder."""

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Literal

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raysde.data.dataset.kept_columns import list_kept
from raysde.data.dataset.manifest import Manifest, list_columns
from raysde.data.dataset.precomputed import Derived, check_derived_list, verify_derived
from raysde.data.dataset.shards import fits_schema
from raysde.io.filesystems import child_path, open_filesystem, sha256_of
from raysde.io.listing import Listed, list_files

Verification = Literal["hash", "schema", "listing"]
THREADS = 16
LARGE = 4 << 30
"""Size in bytes of files on disk that are worth the start of Ray; below, this process hashes them sooner."""
AGAIN = "restore it or ingest again"


def is_local(path: str) -> bool:
    """Return True if a path or URI is on a file system of this machine, where requests cost little."""
    return "://" not in path or path.startswith("file://")  # opening an object store may ask for its region


def hashing_needs_ray(manifest: Manifest, precomputed: Iterable[Derived]) -> bool:
    """Return True if files are remote or so large that their hashing is worth the start of Ray."""
    size = manifest.bytes + sum(file.bytes for derived in precomputed for file in derived.all_files)
    return size >= LARGE or not is_local(manifest.path)


def choose_verification(wanted: Verification | None, path: str) -> Verification:
    """Return the wanted verification; by default hashes on disk, and the listing on object stores."""
    return wanted or ("hash" if is_local(path) else "listing")


def check_columns(manifest: Manifest) -> None:
    """Check that the data set has this version's columns.

    Raises:
        ValueError: if it has others.
    """
    expected = list_columns(manifest.schema)
    if manifest.columns != expected:
        raise ValueError(f"{manifest.path}/manifest.json lists columns {manifest.columns}, expected {expected}")


def verify_shards(manifest: Manifest, *, hashes: bool) -> None:
    """Check that shards exist and have the manifest's bytes, columns and row groups, and with ``hashes`` its sha256.

    Raises:
        ValueError: naming the first shard that differs, and the difference.
    """
    check_columns(manifest)
    verify_kept(manifest, hashes=hashes)
    threads = 2 * (os.cpu_count() or 1) if is_local(manifest.path) else THREADS
    with ThreadPoolExecutor(threads) as pool:
        numbers = range(len(manifest.shards))
        checked = pool.map(lambda number: verify_shard(manifest, number, hashes=hashes), numbers)
        try:
            for _ in checked:
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def verify_kept(manifest: Manifest, *, hashes: bool) -> None:
    """Check that the files of kept columns have the manifest's bytes, and with ``hashes`` its sha256.

    Raises:
        ValueError: naming the first file that differs.
    """
    for file in list_kept(manifest.kept):
        where, path = f"file {file.file} of {manifest.path}", child_path(manifest.path, file.file)
        system, inside = open_filesystem(path)
        info = system.get_file_info(inside)
        if info.type != pafs.FileType.File:
            raise ValueError(f"{where} is missing; {AGAIN}")
        if info.size != file.bytes or (hashes and sha256_of(path) != file.sha256):
            raise ValueError(f"{where} is not the file that the manifest describes; {AGAIN}")


def verify_shard(manifest: Manifest, number: int, *, hashes: bool) -> None:
    """Check shard ``number``, counted from 0, as :func:`verify_shards` does.

    Raises:
        ValueError: naming the shard and the difference.
    """
    shard, path = manifest.shards[number], manifest.file(number)
    where = f"shard {shard.file} of {manifest.path}"
    system, inside = open_filesystem(path)
    info = system.get_file_info(inside)
    if info.type != pafs.FileType.File:
        raise ValueError(f"{where} is missing; {AGAIN}")
    if hashes and (found := sha256_of(path)) != shard.sha256:
        raise ValueError(f"{where} has sha256 {found[:12]}, but {shard.sha256[:12]} in the manifest; ingest again")
    if info.size != shard.bytes:
        raise ValueError(f"{where} has {info.size} bytes, but {shard.bytes} in the manifest; ingest again")
    try:
        with pq.ParquetFile(system.open_input_file(inside)) as opened:
            same = fits_schema(opened, manifest.schema, shard.rows, manifest.row_group)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{where} is not Parquet: {' '.join(str(error).split())}; {AGAIN}") from error
    if not same:
        raise ValueError(f"{where} does not have the manifest's columns and rows; ingest again")


def verify_listing(manifest: Manifest) -> list[str]:
    """Check shards against a listing of their folder: sizes, and entity tags if the ingest recorded them there.

    Returns:
        Remarks for the user, a sentence each: what this verification did not compare.

    Raises:
        ValueError: naming the first shard that is missing, has another size, or was replaced.
        OSError: if the store cannot be listed.
    """
    check_columns(manifest)
    names = manifest.shards.files.to_pylist()
    found = list_files(manifest.path, names)
    _compare_sizes("shard", manifest.path, zip(names, manifest.shards.bytes.tolist(), strict=True), found, AGAIN)
    kept = [(file.file, file.bytes) for file in list_kept(manifest.kept)]
    if kept:
        listed = list_files(manifest.path, [name for name, _ in kept])
        _compare_sizes("file", manifest.path, kept, listed, AGAIN)
    if without_options(manifest.path) != manifest.etags_of or not any(each.etag for each in found.values()):
        return [f"{manifest.path}: {_explain_sizes_only(manifest)}; data.verify=hash reads all contents"]
    for name, etag in zip(names, manifest.shards.etags, strict=True):
        if etag is not None and found[name].etag != etag:
            raise ValueError(
                f"shard {name} of {manifest.path} was replaced after the ingest: its entity tag is "
                f"{found[name].etag}, but {etag} in the manifest; {AGAIN}, or set data.verify=hash if the same bytes "
                "were uploaded again"
            )
    return []


def _explain_sizes_only(manifest: Manifest) -> str:
    sizes = "data.verify=listing compared sizes only, so a replaced shard of the same size is not noticed"
    if manifest.etags_of == without_options(manifest.path):
        return f"{sizes}, since boto3, which lists entity tags, is not installed (pip install 'raysde[s3]')"
    reason = f"those at {manifest.etags_of}" if manifest.etags_of else "none"
    return f"{sizes}, since the entity tags in the manifest are {reason}"


def verify_derived_listing(derived: Derived, manifest: Manifest) -> None:
    """Check a precomputed folder's files and their sizes against a listing of the folder.

    Raises:
        ValueError: naming the first file that is missing or has another size.
        OSError: if the store cannot be listed.
    """
    check_derived_list(derived, manifest)
    sizes = [(file.file, file.bytes) for file in derived.all_files]
    found = list_files(derived.path, [name for name, _ in sizes])
    _compare_sizes("file", derived.path, sizes, found, "remove the folder and run raysde precompute again")


def _compare_sizes(
    what: str, path: str, wanted: Iterable[tuple[str, int]], found: Mapping[str, Listed], remedy: str
) -> None:
    for name, size in wanted:
        if name not in found:
            raise ValueError(f"{what} {name} of {path} is missing; {remedy}")
        if found[name].size != size:
            raise ValueError(
                f"{what} {name} of {path} has {found[name].size} bytes, but {size} in the manifest; {remedy}"
            )


def verify_here(manifest: Manifest, precomputed: Iterable[Derived], verification: Verification) -> list[str]:
    """Check a data set and its precomputed folders in this process.

    Returns:
        Remarks for the user, a sentence each.

    Raises:
        ValueError: naming the first file that differs, and the difference.
        OSError: if the store cannot be listed.
    """
    if verification == "listing":
        for derived in precomputed:
            verify_derived_listing(derived, manifest)
        return verify_listing(manifest)
    hashes = verification == "hash"
    verify_shards(manifest, hashes=hashes)
    for derived in precomputed:
        verify_derived(derived, manifest, hashes=hashes)
    return []


def without_options(path: str) -> str:
    """Return a URI without its options and credentials, or a local path unchanged."""
    if "://" not in path:
        return path
    scheme, _, rest = path.partition("?")[0].partition("://")
    place, slash, inside = rest.partition("/")
    return f"{scheme}://{place.rpartition('@')[2]}{slash}{inside.rstrip('/')}".rstrip("/")


def record_etags(manifest: Manifest) -> Manifest:
    """Return the manifest of a data set that was just written, with the entity tags that its object store tells.

    On disk the manifest is returned unchanged.

    Raises:
        ValueError: naming the first shard that is missing or has another size.
        OSError: if the store cannot be listed.
    """
    if is_local(manifest.path):
        return manifest
    names = manifest.shards.files.to_pylist()
    found = list_files(manifest.path, names)
    sizes = zip(names, manifest.shards.bytes.tolist(), strict=True)
    _compare_sizes("shard", manifest.path, sizes, found, "ingest again")
    etags = [found[name].etag for name in names]
    of = without_options(manifest.path) if any(etags) else ""
    return replace(manifest, shards=manifest.shards.with_etags(etags), etags_of=of)
