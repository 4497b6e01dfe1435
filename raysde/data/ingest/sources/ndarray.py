"""Arrays in .npy, .npz and idx files, read row by row without loading them whole."""

import gzip
import math
import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from raysde.data.ingest.sources.listing import Listing, open_root

ARRAY_SUFFIXES = (".npy", ".npz", "ubyte", "ubyte.gz")
IDX_TYPES = {0x08: "|u1", 0x09: "|i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
# exceptions that numpy's header parser, struct, zlib and zipfile raise for damaged bytes
DAMAGED = (
    ValueError, EOFError, SyntaxError, tokenize.TokenError, struct.error,
    zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, RuntimeError,
)  # fmt: skip


@dataclass(frozen=True)
class Title:
    """Location of an array: a file, and a member of it if the file is an .npz."""

    root: str
    file: str
    member: str | None

    @property
    def title(self) -> str:
        return self.file if self.member is None else f"{self.file}:{self.member.removesuffix('.npy')}"

    @property
    def tokens(self) -> tuple[str, ...]:
        """Words of the array's name, or of the file's name if the array has none, such as NumPy's ``arr_0``."""
        unnamed = self.member is None or self.member.startswith("arr_")
        return split_name(self.file if unnamed or self.member is None else self.member)

    @contextmanager
    def stream(self) -> Iterator[tuple[Any, int]]:
        """Open the array's bytes with their header; yield the stream and its length, -1 if the length is unknown."""
        system, folder = open_root(self.root)
        with ExitStack() as stack:
            raw = stack.enter_context(system.open_input_file(f"{folder}/{self.file}"))
            if self.member is not None:
                archive = stack.enter_context(zipfile.ZipFile(raw))
                yield stack.enter_context(archive.open(self.member)), archive.getinfo(self.member).file_size
            elif self.file.lower().endswith(".gz"):
                yield stack.enter_context(gzip.GzipFile(fileobj=raw)), -1
            else:
                yield raw, raw.size()


@dataclass(frozen=True)
class Array(Title):
    """An array with its header: shape, NumPy's name of its dtype, and offset of its first row in bytes."""

    shape: tuple[int, ...]
    dtype: str
    offset: int

    def rows(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Yield the rows in [start, stop), each an array of shape ``self.shape[1:]``.

        Raises:
            ValueError: naming the file, if it is damaged.
        """
        dtype = np.dtype(self.dtype)
        width = math.prod(self.shape[1:]) * dtype.itemsize
        try:
            with self.stream() as (source, _):
                source.seek(self.offset + start * width)
                for _ in range(start, stop):
                    yield np.frombuffer(source.read(width), dtype).reshape(self.shape[1:])
        except DAMAGED as error:
            raise ValueError(f"array {self.title} is damaged: {error}") from error


def split_name(name: str) -> tuple[str, ...]:
    """Return the words of a file's or array's name in lower case, without suffixes of file formats."""
    words = re.split(r"[-_.]", PurePosixPath(name).name.lower())
    return tuple(word for word in words if word not in ("npy", "npz", "gz"))


def list_arrays(listing: Listing, file: str) -> list[Title]:
    """Return the locations of the arrays in a file.

    Raises:
        ValueError: naming the file, if it is an .npz that cannot be read.
    """
    if not file.lower().endswith(".npz"):
        return [Title(listing.root, file, None)]
    system, folder = open_root(listing.root)
    try:
        with system.open_input_file(f"{folder}/{file}") as source, zipfile.ZipFile(source) as archive:
            return [Title(listing.root, file, name) for name in sorted(archive.namelist()) if name.endswith(".npy")]
    except DAMAGED as error:
        raise ValueError(f"{listing.path(file)} is not a whole .npz file: {error}") from error


def open_array(listing: Listing, title: Title) -> Array:
    """Read an array's header and compare it with the length of the file.

    Raises:
        ValueError: naming the file, if it is damaged or cut short, holds Python objects, or is in Fortran order.
    """
    try:
        with title.stream() as (source, size):
            is_numpy = title.member is not None or title.file.lower().endswith(".npy")
            shape, dtype, offset = (_read_numpy_header if is_numpy else _read_idx_header)(source)
            expected = offset + math.prod(shape) * dtype.itemsize
            found = size if size >= 0 else _measure_length(source, offset)
    except DAMAGED as error:
        raise ValueError(f"{listing.path(title.title)} cannot be read as an array: {error}") from error
    if found != expected:
        raise ValueError(f"{listing.path(title.title)} has {found} bytes, its header {list(shape)} asks for {expected}")
    return Array(title.root, title.file, title.member, shape, dtype.str, offset)


def _measure_length(source: Any, read: int) -> int:
    """Return the length in bytes of a stream from which ``read`` bytes were read, by reading the rest."""
    while chunk := source.read(1 << 20):
        read += len(chunk)
    return read


def _read_idx_header(source: Any) -> tuple[tuple[int, ...], np.dtype, int]:
    # http://yann.lecun.com/exdb/mnist: two zeros, type, number of dimensions, then each as big-endian uint32
    zeros, kind, dimensions = struct.unpack(">HBB", source.read(4))
    if zeros != 0 or kind not in IDX_TYPES or dimensions == 0:
        raise ValueError("its first bytes are not those of an idx file")
    shape = struct.unpack(f">{dimensions}I", source.read(4 * dimensions))
    return shape, np.dtype(IDX_TYPES[kind]), 4 + 4 * dimensions


def _read_numpy_header(source: Any) -> tuple[tuple[int, ...], np.dtype, int]:
    version = np.lib.format.read_magic(source)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its format {version} is not 1.0 or 2.0")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(source)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which would be unpickled; save an array of numbers or strings")
    if fortran and len(shape) > 1:
        raise ValueError("it is in Fortran order; save numpy.ascontiguousarray of it")
    return shape, dtype, source.tell()
