"""Files and folders by path or URI, through pyarrow: local, s3://, gs://, hdfs://.

A URI may have options after ``?``, such as ``s3://bucket/shards?endpoint_override=http://127.0.0.1:9000``.
"""

import hashlib
import json
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pafs

from raysde.io.atomic import write_atomically
from raysde.io.errors import name_place_of_write

WHOLE_ON_CLOSE = ("s3", "gcs")
"""File systems that write objects atomically; a rename there is a copy, on S3 of at most 5 GB."""
AT_ONCE = 8 * 2**20
"""Bytes that are read and hashed at a time."""
BUCKET = re.compile(r"((?:s3|gs)://(?:[^/?#@]+@)?[a-z0-9._-]+)(/[\w.~!$&'()*+,;=:@/%-]*)?(\?.*)?", re.ASCII)
"""A URI of an object store: bucket, with credentials before it if any, path and options."""
CREDENTIALS = ("AWS_", "GOOGLE_")
"""Prefixes of the environment variables that clients of object stores read."""
DATABASE = re.compile(r"(sqlite[^:]*:///)([^?]*)(.*)")


def open_filesystem(path: str) -> tuple[pafs.FileSystem, str]:
    """Return the file system of a local path or URI, and the path inside it.

    A process makes one client for each bucket and its options, and makes it anew if the environment variables with
    credentials change.

    Raises:
        ValueError: if pyarrow does not support the URI.
    """
    if "://" not in path:
        return pafs.LocalFileSystem(), str(Path(path).expanduser().absolute())
    if found := split_bucket(path):
        system, bucket = _open_bucket(found[0], os.getpid(), credential_settings())
        return system, bucket + found[1]
    return _open_uri(path)


def split_bucket(uri: str) -> tuple[str, str] | None:
    """Return the URI of a bucket with its options, and the path in it after ``/``; None for other places."""
    found = BUCKET.fullmatch(uri)
    if found is None:
        return None
    root, inside, options = found.groups(default="")
    return root + options, unquote(inside).rstrip("/")


def credential_settings() -> tuple[tuple[str, str], ...]:
    """Return the environment variables that clients of object stores read, sorted by name."""
    return tuple(sorted(item for item in os.environ.items() if item[0].startswith(CREDENTIALS)))


@lru_cache(maxsize=32)
def _open_bucket(uri: str, process: int, settings: tuple[tuple[str, str], ...]) -> tuple[pafs.FileSystem, str]:
    """Return the file system of a bucket, and the bucket's name; a forked process shares no client with its parent."""
    return _open_uri(uri)


def _open_uri(path: str) -> tuple[pafs.FileSystem, str]:
    try:
        return pafs.FileSystem.from_uri(path)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"{path!r} cannot be opened: {' '.join(str(error).split())}") from error


def absolute_location(path: str) -> str:
    """Return a local path as an absolute path with ~ expanded, or a URI without a trailing slash."""
    return path.rstrip("/") if "://" in path else str(Path(path).expanduser().absolute())


def resolve_folder_or_name(path: str) -> str:
    """Return the absolute path of an existing local folder; return any other name, such as a hub model's, unchanged."""
    folder = Path(path).expanduser()
    return str(folder.absolute()) if folder.is_dir() else path


def child_path(path: str, *names: str) -> str:
    """Return a path below ``path``; the options of a URI stay at its end."""
    base, mark, options = path.partition("?") if "://" in path else (path, "", "")
    return "/".join([base.rstrip("/"), *names]) + mark + options


def exists(path: str) -> bool:
    """Return True if there is a file or folder at ``path``.

    Raises:
        ValueError: if pyarrow does not support the URI.
    """
    system, inside = open_filesystem(path)
    return bool(system.get_file_info(inside).type != pafs.FileType.NotFound)


def read_bytes(path: str) -> bytes:
    """Return the content of a file.

    Raises:
        FileNotFoundError: if the file does not exist.
    """
    system, inside = open_filesystem(path)
    with system.open_input_stream(inside) as source:
        return bytes(source.read())


def write_bytes(path: str, content: bytes | memoryview) -> None:
    """Write a file atomically: a local file by :func:`write_atomically`, a remote file by one upload.

    Raises:
        ValueError: if pyarrow does not support the URI.
        OSError: naming ``path``, if it cannot be written.
    """
    system, inside = open_filesystem(path)
    if isinstance(system, pafs.LocalFileSystem):
        with write_atomically(Path(inside), "a file") as partial:
            partial.write_bytes(content)
        return
    with name_place_of_write("a file", path), system.open_output_stream(inside) as out:
        out.write(content)


def check_writable(path: str, what: str) -> None:
    """Check that a file can be written after long work; create the local folder for it.

    Args:
        what: the option or key that gave ``path``, for the message.

    Raises:
        ValueError: if ``path`` is a folder or cannot be written.
    """
    system, inside = open_filesystem(path)
    if system.get_file_info(inside).type == pafs.FileType.Directory:
        raise ValueError(f"{what} {path} is a folder: give the name of a file")
    if isinstance(system, pafs.LocalFileSystem):
        folder = Path(inside).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"{what} {path} cannot be written: {error}") from None
        if not os.access(folder, os.W_OK):
            raise ValueError(f"{what} {path} cannot be written: you have no write access to {folder}")


def write_json(path: str, content: Any) -> None:
    """Write a JSON file, see :func:`write_bytes`.

    Raises:
        ValueError, OSError: as :func:`write_bytes`.
    """
    write_bytes(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def sha256_of(path: str) -> str:
    """Return the SHA-256 hash of a file's content, in hexadecimal.

    Raises:
        ValueError: if pyarrow does not support the URI.
        OSError: if the file cannot be read.
    """
    return hash_stream(*open_filesystem(path))


def hash_stream(system: pafs.FileSystem, inside: str, target: Path | None = None) -> str:
    """Return the SHA-256 hash of a file's content, in hexadecimal, and copy the file on the way.

    Args:
        inside: path in the file system.
        target: local path of the copy; None for none.
    """
    digest = hashlib.sha256()
    with system.open_input_stream(inside) as source, open(target or os.devnull, "wb") as out:
        while chunk := source.read(AT_ONCE):
            digest.update(chunk)
            out.write(chunk)
    return digest.hexdigest()


def resolve_database(uri: str) -> str:
    """Return the URI of an MLflow store; the path of an SQLite file becomes absolute, with ``~`` expanded."""
    match = DATABASE.fullmatch(uri)
    if match is None or match[2] in ("", ":memory:"):
        return uri
    return f"{match[1]}{absolute_location(match[2])}{match[3]}"
