"""Files and folders by path or URI, through pyarrow: local, s3://, gs://, hdfs://.

A URI may carry options after ``?``, such as ``s3://bucket/shards?endpoint_override=http://127.0.0.1:9000``.
"""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from raysde.io.atomic import partial_name, write_atomically
from raysde.io.errors import name_place_of_write

WHOLE_ON_CLOSE = ("s3", "gcs")
"""File systems on which an object appears whole or not at all; their rename is a copy, on S3 of at most 5 GB."""
DATABASE = re.compile(r"(sqlite[^:]*:///)([^?]*)(.*)")


def open_filesystem(path: str) -> tuple[pafs.FileSystem, str]:
    """The file system and the path inside it, of a local path or a URI.

    Raises:
        ValueError: if the URI names no file system that pyarrow knows.
    """
    if "://" not in path:
        return pafs.LocalFileSystem(), str(Path(path).expanduser().absolute())
    try:
        return pafs.FileSystem.from_uri(path)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"{path!r} is not a place that can be read: {' '.join(str(error).split())}") from error


def absolute_location(path: str) -> str:
    """A local path made absolute, with ~ expanded; a URI without a slash at its end."""
    return path.rstrip("/") if "://" in path else str(Path(path).expanduser().absolute())


def resolve_folder_or_name(path: str) -> str:
    """Return the absolute path of a local folder, and the name of anything else, such as a model on a hub, as it is."""
    folder = Path(path).expanduser()
    return str(folder.absolute()) if folder.is_dir() else path


def child_path(path: str, *names: str) -> str:
    """A path below ``path``; the options of a URI stay at its end."""
    base, mark, options = path.partition("?") if "://" in path else (path, "", "")
    return "/".join([base.rstrip("/"), *names]) + mark + options


def exists(path: str) -> bool:
    """Whether there is a file or a folder."""
    system, inside = open_filesystem(path)
    return bool(system.get_file_info(inside).type != pafs.FileType.NotFound)


def read_bytes(path: str) -> bytes:
    """The content of a file.

    Raises:
        FileNotFoundError: if there is none.
    """
    system, inside = open_filesystem(path)
    with system.open_input_stream(inside) as source:
        return bytes(source.read())


def write_bytes(path: str, content: bytes) -> None:
    """Write a file whole or not at all: a local one under a name of its own first, a remote one by one upload."""
    system, inside = open_filesystem(path)
    if isinstance(system, pafs.LocalFileSystem):
        with write_atomically(Path(inside), "a file") as partial:
            partial.write_bytes(content)
        return
    with name_place_of_write("a file", path), system.open_output_stream(inside) as out:
        out.write(content)


def copy_into_place(source: Path, path: str) -> None:
    """Copy a local file, with one writer at a time, to a place where it appears whole, replacing what was there."""
    system, inside = open_filesystem(path)
    folder, _, name = inside.rpartition("/")
    system.create_dir(folder, recursive=True)
    partial = inside if system.type_name in WHOLE_ON_CLOSE else f"{folder}/{partial_name(Path(name))}"
    pafs.copy_files(str(source), partial, pafs.LocalFileSystem(), system)
    if partial != inside:
        system.move(partial, inside)


def check_writable(path: str, what: str) -> None:
    """Guards the place of a file that is written at the end of long work; a local folder of it is made.

    Raises:
        ValueError: naming ``what`` it was given as, if it is a folder or cannot be written.
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
            raise ValueError(f"{what} {path} cannot be written: {folder} is not yours to write to")


def write_json(path: str, content: Any) -> None:
    """Writes a JSON file, see :func:`write_bytes`."""
    write_bytes(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def sha256_of(path: str) -> str:
    """The hash of a file's content."""
    system, inside = open_filesystem(path)
    digest = hashlib.sha256()
    with system.open_input_stream(inside) as source:
        while chunk := source.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def resolve_database(uri: str) -> str:
    """Return the URI of an MLflow store with the path of an SQLite file made absolute, and ``~`` expanded."""
    match = DATABASE.fullmatch(uri)
    if match is None or match[2] in ("", ":memory:"):
        return uri
    return f"{match[1]}{absolute_location(match[2])}{match[3]}"
