"""Tensors of a remote safetensors file, of which only the requested rows are read.

safetensors opens local paths alone. This reader asks the file system for byte ranges: one for the header, and one for
the rows of each tensor.
"""

import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from raysde.checkpoints.tensor_files import TYPES

FIRST = 2**16
"""Bytes of the first request, which most headers fit into."""
DTYPES = {name: dtype for dtype, name in TYPES.items()}


class RangedTensors:
    """A safetensors file that is read in ranges, with the interface of :func:`safetensors.safe_open`.

    Args:
        source: a file of pyarrow with random access.
        where: name of the file, for messages.

    Raises:
        ValueError: if the header is not valid.
    """

    def __init__(self, source: Any, where: str) -> None:
        self.source = source
        size = source.size()
        first = source.read_at(min(FIRST, size), 0)
        length = int.from_bytes(first[:8], "little")
        if len(first) < 8 or 8 + length > size:
            raise ValueError(f"{where} cannot be read: its header is not that of a safetensors file")
        text = first[8 : 8 + length] + (
            source.read_at(8 + length - len(first), len(first)) if 8 + length > len(first) else b""
        )
        try:
            header = json.loads(text)
            self.about: dict[str, str] = header.pop("__metadata__", {})
            self.tensors = {name: _place(each, 8 + length) for name, each in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{where} cannot be read: its header is not that of a safetensors file") from error
        if any(place.start + place.bytes > size for place in self.tensors.values()):
            raise ValueError(f"{where} cannot be read: it is too short for its tensors")

    def metadata(self) -> dict[str, str]:
        return self.about

    def keys(self) -> list[str]:
        return list(self.tensors)

    def get_slice(self, name: str) -> "Rows":
        return Rows(self.source, self.tensors[name])

    def get_tensor(self, name: str) -> Tensor:
        """Return a tensor in host memory, of the shape and dtype that the header states.

        Raises:
            OSError: if the store sends fewer bytes than requested.
        """
        place = self.tensors[name]
        return _read(self.source, place.start, place.bytes, place.dtype).reshape(place.shape)


@dataclass(frozen=True)
class Place:
    """Type, shape, first byte (``start``) and size in bytes of a tensor in a file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    bytes: int


def _place(entry: dict[str, Any], base: int) -> Place:
    begin, end = entry["data_offsets"]
    return Place(DTYPES[entry["dtype"]], tuple(entry["shape"]), base + begin, end - begin)


@dataclass(frozen=True)
class Rows:
    """The rows of a tensor in a file."""

    source: Any
    place: Place

    def get_shape(self) -> list[int]:
        return list(self.place.shape)

    def __getitem__(self, rows: slice) -> Tensor:
        """Return the rows of a slice of step 1, [rows, ...], in host memory.

        Raises:
            OSError: if the store sends fewer bytes than requested.
        """
        start, stop, _ = rows.indices(self.place.shape[0])
        each = self.place.bytes // max(self.place.shape[0], 1)
        count = max(stop - start, 0)
        found = _read(self.source, self.place.start + start * each, count * each, self.place.dtype)
        return found.reshape((count, *self.place.shape[1:]))


def _read(source: Any, start: int, size: int, dtype: torch.dtype) -> Tensor:
    if size == 0:
        return torch.empty(0, dtype=dtype)
    content = source.read_at(size, start)
    if len(content) != size:
        raise OSError(f"{size} bytes were requested and {len(content)} received")
    return torch.frombuffer(bytearray(content), dtype=dtype)
