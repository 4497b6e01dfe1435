"""safetensors files written from host memory and hashed on the way, in any file system.

The library's own writer takes a path and returns no hash, so each file would be read again, and a remote one would need
a local copy.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import torch
from torch import Tensor

from raysde.checkpoints.description import Listed
from raysde.io.atomic import partial_name
from raysde.io.filesystems import WHOLE_ON_CLOSE, open_filesystem

TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
AT_ONCE = 16 * 2**20
"""Bytes that are hashed and written at a time."""
ATTEMPTS = 3
"""Number of attempts to send a file to remote storage before the run fails."""


@dataclass(frozen=True)
class TensorFile:
    """The content of a safetensors file: contiguous tensors of any shape in host memory, and text for its header."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def parts(self) -> Iterator[bytes | memoryview]:
        """Yield the bytes of the file in order, at most ``AT_ONCE`` of them at a time."""
        # descending element size keeps each tensor aligned to its dtype
        names = sorted(self.tensors, key=lambda name: (-self.tensors[name].element_size(), name))
        yield build_header([(name, self.tensors[name]) for name in names], self.metadata)
        for name in names:
            content = self.tensors[name].reshape(-1).view(torch.uint8).numpy().data
            for start in range(0, len(content), AT_ONCE):
                yield content[start : start + AT_ONCE]


def build_header(tensors: Iterable[tuple[str, Tensor]], metadata: Mapping[str, str]) -> bytes:
    """Return the header for tensors of any shape: a length of 8 bytes, and JSON padded to a multiple of 8 bytes."""
    content: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    place = 0
    for name, tensor in tensors:
        end = place + tensor.numel() * tensor.element_size()
        content[name] = {"dtype": TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(content).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write_file(system: pafs.FileSystem, path: str, parts: Callable[[], Iterable[bytes | memoryview]]) -> Listed:
    """Write a file, and return its hash and size. A remote file appears once it is complete.

    Args:
        parts: returns the bytes of the file, once for each attempt.

    Raises:
        OSError: if the file cannot be written; sending a remote file is tried three times.
    """
    last = 1 if isinstance(system, pafs.LocalFileSystem) else ATTEMPTS
    for attempt in range(1, last + 1):
        try:
            return _write_parts(system, path, parts())
        except OSError:
            if attempt == last:
                raise
            time.sleep(attempt)
    raise AssertionError("the last attempt returns or raises")


def write_into_place(path: str, parts: Callable[[], Iterable[bytes | memoryview]]) -> None:
    """Write a file that has one writer atomically to a path or URI, replacing what is there.

    Raises:
        OSError: as :func:`write_file`.
    """
    system, inside = open_filesystem(path)
    folder, _, name = inside.rpartition("/")
    partial = inside if system.type_name in WHOLE_ON_CLOSE else f"{folder}/{partial_name(Path(name))}"
    write_file(system, partial, parts)
    if partial != inside:
        system.move(partial, inside)


def _write_parts(system: pafs.FileSystem, path: str, parts: Iterable[bytes | memoryview]) -> Listed:
    digest, size = hashlib.sha256(), 0
    with _open_output(system, path) as out:
        for part in parts:
            out.write(part)
            digest.update(part)
            size += len(part)
    return Listed(digest.hexdigest(), size)


@contextmanager
def _open_output(system: pafs.FileSystem, path: str) -> Iterator[Any]:
    system.create_dir(path.rpartition("/")[0], recursive=True)
    if isinstance(system, pafs.LocalFileSystem):
        with Path(path).open("wb", buffering=0) as out:  # pyarrow hides the reason of a failed write
            yield _Whole(out)
    else:
        with system.open_output_stream(path) as out:
            yield out


@dataclass(frozen=True)
class _Whole:
    """An unbuffered local file whose ``write`` writes everything: a single call may write less, as on a full disk."""

    raw: Any

    def write(self, part: bytes | memoryview) -> None:
        rest = memoryview(part)
        while len(rest):
            rest = rest[self.raw.write(rest) :]
