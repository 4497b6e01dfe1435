"""Conversion of decoded microbatches to Arrow tables, the stream's blocks, without torch: data tasks start sooner.

A block holds one microbatch index for a range of steps; :mod:`raysde.data.batches.arrow` reads it.
"""

import math
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from raysde.data.dataset.reader import Columns

_spare: list[memoryview] = []
"""Memory of an earlier block that nothing refers to any more; one at most."""


def lend_memory(size: int) -> np.ndarray:
    """Return uninitialised memory, uint8 [size]: that of an earlier block where it is free again and large enough.

    The kernel clears all new memory, which would take a tenth of the time that its images take to decode.
    """
    found = _spare.pop() if _spare else None
    if found is None or len(found) < size:
        found = np.empty(max(1, size), dtype=np.uint8).data
    memory = np.frombuffer(found, dtype=np.uint8, count=size)  # every view of it keeps this array, not its owner
    weakref.finalize(memory, _take_back, found).atexit = False
    return memory


def _take_back(memory: memoryview) -> None:
    """Keep memory for the next block, unless a larger piece is kept already."""
    if not _spare or len(_spare[0]) < len(memory):
        _spare[:] = [memory]


class Canvas:
    """``size`` bytes of memory for the images of a block, allocated piece by piece so that the block needs no copy."""

    def __init__(self, size: int) -> None:
        self.memory, self.used = lend_memory(size), 0

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return the next piece of memory as uint8 of shape ``shape``."""
        start, self.used = self.used, self.used + math.prod(shape)
        assert self.used <= len(self.memory)
        return self.memory[start : self.used].reshape(shape)


@dataclass(frozen=True)
class Decoded:
    """The decoded rows of microbatch ``index`` of a step.

    Attributes:
        rows: row numbers in the data set, int64 [B].
    """

    step: int
    index: int
    rows: np.ndarray
    columns: Columns


def to_table(
    batches: list[Decoded], numbers: Mapping[str, np.dtype] | None = None, canvas: Canvas | None = None
) -> pa.Table:
    """Return microbatches as an Arrow table with a row for each image.

    Args:
        numbers: name and dtype of the precomputed fields, numeric attributes and second images of the microbatches.
        canvas: memory that holds the images of all microbatches, in this order; None copies the images.
    """
    pixels = [batch.columns.images for batch in batches]
    nothing = np.empty(0, dtype=np.uint8)
    if canvas is None:
        data = np.concatenate([nothing, *(each.reshape(-1) for each in pixels)])
    else:
        data = canvas.memory[: canvas.used]
    sizes = np.concatenate([nothing, *(np.full(len(each), each[0].size) for each in pixels)]).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    images = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(sizes), buffers)

    def fill_column(values: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([nothing, *values]).astype(np.int64)

    def repeat(values: Iterable[int]) -> np.ndarray:
        return fill_column([np.full(len(batch.rows), value) for batch, value in zip(batches, values, strict=True)])

    return pa.table(
        {
            "image": images,
            "height": repeat(each.shape[1] for each in pixels),
            "caption": pa.array([caption for batch in batches for caption in batch.columns.captions], pa.string()),
            "label": fill_column([batch.columns.labels for batch in batches]),
            "row": fill_column([batch.rows for batch in batches]),
            "step": repeat(batch.step for batch in batches),
            "index": repeat(batch.index for batch in batches),
            **_numbers_columns(batches, numbers or {}),
        }
    )


def _numbers_columns(batches: list[Decoded], numbers: Mapping[str, np.dtype]) -> dict[str, pa.Array]:
    """Return two columns for each precomputed field, flat values and shape of each row, and ``tokens`` for contexts."""
    columns: dict[str, pa.Array] = {}
    for name, dtype in numbers.items():
        found = [_numbers_of(batch.columns, name) for batch in batches]
        shapes = [list(each.shape[1:]) for each in found for _ in each]
        offsets = np.concatenate([[0], np.cumsum([each[0].size for each in found for _ in each])]).astype(np.int64)
        flat = [np.empty(0, dtype), *(each.reshape(-1) for each in found)]
        data = flat[1] if len(flat) == 2 else np.concatenate(flat)
        columns[name] = pa.LargeListArray.from_arrays(offsets, pa.array(data))
        columns[f"{name}_shape"] = pa.array(shapes, pa.list_(pa.int64()))
    if "context" in numbers:
        tokens = [batch.columns.tokens for batch in batches if batch.columns.tokens is not None]
        columns["tokens"] = pa.array(np.concatenate([np.empty(0), *tokens]).astype(np.int64))
    return columns


def _numbers_of(columns: Columns, name: str) -> np.ndarray:
    """Return a field of decoded rows in a microbatch's layout: second images as [B, C, H, W]."""
    found: np.ndarray = getattr(columns, name)
    return np.ascontiguousarray(found.transpose(0, 3, 1, 2)) if name == "condition_images" else found
