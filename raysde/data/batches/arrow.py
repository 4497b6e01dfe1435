"""Conversion of microbatches to Arrow tables, the stream's blocks, and back without copying pixels.

A block holds one microbatch index for a range of steps.
"""

import math
import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pyarrow as pa
import torch

from raysde.data.batches.microbatch import Microbatch, mask_first

# pixels in shared memory are read-only, and no code here writes to a microbatch
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


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


def to_table(
    batches: list[Microbatch], numbers: Mapping[str, np.dtype] | None = None, canvas: Canvas | None = None
) -> pa.Table:
    """Return microbatches as an Arrow table with a row for each image.

    Args:
        numbers: name and dtype of the precomputed fields, numeric attributes and second images of the microbatches.
        canvas: memory that holds the images of all microbatches, in this order; None copies the images.
    """
    pixels = [batch.images.permute(0, 2, 3, 1) for batch in batches]
    nothing = np.empty(0, dtype=np.uint8)
    if canvas is None:
        data = np.concatenate([nothing, *(each.contiguous().numpy().reshape(-1) for each in pixels)])
    else:
        data = canvas.memory[: canvas.used]
    sizes = np.concatenate([nothing, *(np.full(len(each), each[0].numel()) for each in pixels)]).astype(np.int64)
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
            "height": repeat(batch.images.shape[2] for batch in batches),
            "caption": pa.array([caption for batch in batches for caption in batch.captions], pa.string()),
            "label": fill_column([batch.labels.numpy() for batch in batches]),
            "row": fill_column([batch.rows for batch in batches]),
            "step": repeat(batch.step for batch in batches),
            "index": repeat(batch.index for batch in batches),
            **_numbers_columns(batches, numbers or {}),
        }
    )


def _numbers_columns(batches: list[Microbatch], numbers: Mapping[str, np.dtype]) -> dict[str, pa.Array]:
    """Return two columns for each precomputed field, flat values and shape of each row, and ``tokens`` for contexts."""
    columns: dict[str, pa.Array] = {}
    for name, dtype in numbers.items():
        found = [getattr(batch, name).numpy() for batch in batches]
        shapes = [list(each.shape[1:]) for each in found for _ in each]
        offsets = np.concatenate([[0], np.cumsum([each[0].size for each in found for _ in each])]).astype(np.int64)
        flat = [np.empty(0, dtype), *(each.reshape(-1) for each in found)]
        data = flat[1] if len(flat) == 2 else np.concatenate(flat)
        columns[name] = pa.LargeListArray.from_arrays(offsets, pa.array(data))
        columns[f"{name}_shape"] = pa.array(shapes, pa.list_(pa.int64()))
    if "context" in numbers:
        masks = [batch.context_mask.sum(dim=1).numpy() for batch in batches if batch.context_mask is not None]
        columns["tokens"] = pa.array(np.concatenate([np.empty(0), *masks]).astype(np.int64))
    return columns


def from_table(table: pa.Table, channels: int) -> Iterator[Microbatch]:
    """Yield the microbatches of a block; their images, [B, C, H, W] with C = ``channels``, share the block's memory."""
    table = table.combine_chunks()
    step, index, row, label, height = (
        table.column(name).to_numpy() for name in ("step", "index", "row", "label", "height")
    )
    images = table.column("image").chunk(0) if table.num_rows else None
    begin = 0
    while begin < len(step):
        same = (step[begin:] == step[begin]) & (index[begin:] == index[begin])
        end = begin + (len(same) if same.all() else int(np.argmin(same)))
        yield Microbatch(
            int(step[begin]),
            int(index[begin]),
            row[begin:end].copy(),
            read_pixels(images, begin, end, int(height[begin]), channels),
            table.column("caption").slice(begin, end - begin).to_pylist(),
            torch.from_numpy(label[begin:end].copy()),
            *_read_contexts(table, begin, end),
            read_numbers(table, "moments", begin, end),
            read_numbers(table, "attributes", begin, end),
            read_numbers(table, "condition_images", begin, end),
        )
        begin = end


def _read_contexts(table: pa.Table, begin: int, end: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Return vectors [B, L, D] and mask, bool [B, L], of rows ``begin`` to ``end``; None if the block has none."""
    context = read_numbers(table, "context", begin, end)
    if context is None:
        return None, None
    tokens = torch.from_numpy(table.column("tokens").to_numpy()[begin:end].copy())
    return context, mask_first(tokens, context.shape[1])


def read_numbers(table: pa.Table, name: str, begin: int, end: int) -> torch.Tensor | None:
    """Return a precomputed field [B, ...] of rows ``begin`` to ``end``, in the block's memory; None if it is absent."""
    if name not in table.column_names:
        return None
    shape = table.column(f"{name}_shape")[begin].as_py()
    flat = table.column(name).chunk(0).slice(begin, end - begin).flatten()
    return torch.from_numpy(flat.to_numpy().reshape(end - begin, *shape))


def read_pixels(images: pa.LargeBinaryArray, begin: int, end: int, height: int, channels: int) -> torch.Tensor:
    """Return images of rows ``begin`` to ``end`` in the block's memory, uint8 [B, C, H, W]; H = W = 0 for latents.

    ``height`` is H in pixels, 0 for latents; ``channels`` is C.
    """
    if not height:
        return torch.empty(end - begin, channels, 0, 0, dtype=torch.uint8)
    _, offsets, data = images.buffers()
    ends = np.frombuffer(offsets, dtype=np.int64)[images.offset + begin : images.offset + end + 1]
    flat = np.frombuffer(data, dtype=np.uint8, count=int(ends[-1] - ends[0]), offset=int(ends[0]))
    return torch.from_numpy(flat.reshape(end - begin, height, -1, channels)).permute(0, 3, 1, 2)
