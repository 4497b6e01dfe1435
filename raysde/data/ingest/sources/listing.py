"""Listing and reading of a source's files through pyarrow's file systems."""

import fnmatch
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.fs as pafs

from raysde.data.ingest.samples import SourcePart
from raysde.io.filesystems import child_path, open_filesystem


@dataclass(frozen=True)
class ListedFile:
    """A file's path relative to the listing's root, and its size in bytes.

    Attributes:
        name: path relative to the listing's root.
        size: size in bytes.
    """

    name: str
    size: int


@dataclass(frozen=True)
class Listing:
    """The files of a source in name order, without hidden ones.

    Attributes:
        given: path as the user wrote it, for messages.
        root: absolute path or URI of the folder to which names are relative; the same in every process.
        files: the files.
        folder: True if a whole folder is listed, False for a file or a glob.
    """

    given: str
    root: str
    files: tuple[ListedFile, ...]
    folder: bool

    def names(self, *suffixes: str) -> list[str]:
        """Return the names that end with one of the suffixes in lower case, ignoring their own case."""
        return [file.name for file in self.files if file.name.lower().endswith(suffixes)]

    def path(self, name: str) -> str:
        """Return a file's path in the user's notation, for messages."""
        return child_path(self.given if self.folder else self.root, name)

    def read(self, name: str) -> bytes:
        """Return the bytes of a file."""
        return FileReader(self.root)(name)


@dataclass(frozen=True)
class Contents:
    """Parts of a listed source.

    Attributes:
        parts: parts that together hold every sample once.
        count: number of samples; None if it is unknown.
        notes: remarks for the user.
        identity: further text that distinguishes sources with equal names and sizes of files.
        faults: an error sentence for each image that is described and absent, or wrongly described.
    """

    parts: Sequence[SourcePart]
    count: int | None
    notes: tuple[str, ...] = ()
    identity: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()


def open_root(root: str) -> tuple[pafs.FileSystem, str]:
    """Return the file system of a listing's root, and the folder in it without a slash at the end."""
    system, folder = open_filesystem(root)
    return system, folder.rstrip("/")


class FileReader:
    """A callable that reads whole files by name in a root, or in the folder ``below`` it."""

    def __init__(self, root: str, below: str = ".") -> None:
        self.system, folder = open_root(root)
        self.folder = folder if below == "." else f"{folder}/{below}"

    def __call__(self, name: str) -> bytes:
        """Return the bytes of a file.

        Raises:
            ValueError: naming the file, if it is missing or may not be read.
            OSError: for any other failure of the file system, such as of the network; another attempt may succeed.
        """
        path = f"{self.folder}/{name}"
        try:
            with self.system.open_input_stream(path, compression=None) as source:
                return source.read()
        except PermissionError as error:
            raise ValueError(f"file {name} cannot be read: {error}") from error
        except OSError as error:
            if self.system.get_file_info(path).type == pafs.FileType.File:
                raise
            raise ValueError(f"file {name} is missing") from error


def normalise_path(name: str) -> str:
    """Return a relative path without ``./`` and doubled slashes.

    Raises:
        ValueError: naming the path, if it is absolute or climbs with ``..``.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"path {name!r} is absolute or holds '..', expected one inside the folder")
    return str(path)


def decode_utf8(data: bytes, what: str) -> str:
    """Decode UTF-8 bytes, with or without a byte order mark.

    Raises:
        ValueError: naming ``what`` and the line, if the bytes are not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{what}, line {line} is not UTF-8; save the file in that encoding") from None


def list_files(path: str) -> Listing:
    """List the files of a path: all below a folder, one file, or the matches of a glob in its last part.

    Files and folders with names that begin with a dot are left out.

    Raises:
        ValueError: naming the path, if nothing exists there, or a name is not UTF-8.
    """
    system, inner = _open_given(path)
    info = system.get_file_info(inner)
    if info.type == pafs.FileType.Directory:
        root = path if "://" in path else inner
        if root == inner:
            _check_links(Path(inner))
        return Listing(path, root, _list_below(system, inner, path, recursive=True), True)
    root, folder = _parent_path(path), str(PurePosixPath(inner).parent)
    if info.type == pafs.FileType.File:
        return Listing(path, root, (ListedFile(info.base_name, info.size),), False)
    files = _match_pattern(system, folder, path, PurePosixPath(inner).name)
    return Listing(path, root, files, False)


def folder_root(path: str) -> str:
    """Return the absolute path or URI of a folder.

    Raises:
        ValueError: naming the path, if it is no folder.
    """
    system, inner = _open_given(path)
    if system.get_file_info(inner).type != pafs.FileType.Directory:
        raise ValueError(f"{path} is not a folder")
    return path if "://" in path else inner


def list_root_files(listing: Listing) -> tuple[ListedFile, ...]:
    """Return all files directly in the root, including those that are not listed."""
    system, folder = open_root(listing.root)
    return _list_below(system, folder, listing.given, recursive=False)


def _open_given(path: str) -> tuple[pafs.FileSystem, str]:
    system, inner = open_filesystem(path)
    return system, inner.rstrip("/") or "/"


def _parent_path(path: str) -> str:
    if "://" not in path:
        return str(Path(path).expanduser().absolute().parent)
    place, mark, options = path.partition("?")
    return place.rstrip("/").rpartition("/")[0] + "/" + mark + options


def _match_pattern(system: Any, folder: str, path: str, pattern: str) -> tuple[ListedFile, ...]:
    is_folder = system.get_file_info(folder).type == pafs.FileType.Directory
    if not is_folder or not any(mark in pattern for mark in "*?["):
        raise ValueError(f"source {path} is missing: no file, folder or glob (in the last part of the path) is there")
    found = _list_below(system, folder, path, recursive=False)
    files = tuple(file for file in found if fnmatch.fnmatchcase(file.name, pattern))
    if not files:
        raise ValueError(f"source {path} matches no file")
    return files


def _list_below(system: Any, folder: str, given: str, *, recursive: bool) -> tuple[ListedFile, ...]:
    try:
        infos = system.get_file_info(pafs.FileSelector(folder, recursive=recursive))
    except UnicodeDecodeError as error:
        raise ValueError(f"source {given} holds a name that is not UTF-8: {error.object!r}") from None
    start = len(folder.rstrip("/")) + 1
    files = [ListedFile(info.path[start:], info.size) for info in infos if info.type == pafs.FileType.File]
    return tuple(sorted((file for file in files if not _is_hidden(file.name)), key=lambda file: file.name))


def _check_links(root: Path) -> None:
    """Check that no link below ``root`` points to a folder that contains it, which would list files many times.

    Raises:
        ValueError: naming such a link.
    """
    for folder, below, _ in os.walk(root, followlinks=False):
        for name in below:
            link = Path(folder, name)
            if link.is_symlink() and not _is_hidden(name) and link.parent.resolve().is_relative_to(link.resolve()):
                raise ValueError(f"source {root}: {link} is a link to a folder that it lies in: remove it")


def _is_hidden(name: str) -> bool:
    return any(piece.startswith(".") for piece in name.split("/"))


def group_by_size(sizes: Sequence[int], least: int) -> list[tuple[int, int]]:
    """Group neighbours up to a total size of ``least``, or one item if it is larger; return (start, stop) of each.

    ``sizes`` and ``least`` have the same unit, such as bytes.
    """
    result: list[tuple[int, int]] = []
    start = held = 0
    for number, size in enumerate(sizes):
        if held and held + size > least:
            result.append((start, number))
            start, held = number, 0
        held += size
    return [*result, (start, len(sizes))] if start < len(sizes) else result


def split_note(names: Sequence[str]) -> tuple[str, ...]:
    """Return a remark if files of a training and a test split are read together, judged by their names."""
    starts = {re.split(r"[-_.]", PurePosixPath(name).name.lower())[0] for name in names}
    if not {"train", "test"} <= starts:
        return ()
    return ("files of train and test are read alike; give a glob such as train-* to read some of them",)


def summarise_names(names: Sequence[str], limit: int = 5) -> str:
    """Return the first ``limit`` names for a message, and the number of the others."""
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")
