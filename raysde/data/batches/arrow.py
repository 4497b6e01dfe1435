"""The microbatches in the stream's blocks, see :mod:`raysde.data.batches.tables`; pixels are not copied."""

import warnings
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import torch

from raysde.data.batches.microbatch import Microbatch, mask_first

# pixels in shared memory are read-only, and no code here writes to a microbatch
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


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
