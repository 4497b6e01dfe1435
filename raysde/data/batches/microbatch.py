"""Microbatches, the unit of training: images, captions and labels of the plan's rows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raysde.data.batches.feed import Feed
from raysde.data.dataset.reader import Columns
from raysde.data.dataset.sources import AnyReader
from raysde.data.dataset.view import View


@dataclass(frozen=True)
class Microbatch:
    """Images with captions and labels.

    Attributes:
        step, index: step of the plan, and the microbatch's index within it.
        rows: row numbers in the data set, int64 [B].
        images: uint8 [B, C, H, W]; empty, [B, C, 0, 0], if ``moments`` replace them.
        captions: B captions, "" for none.
        labels: class numbers, int64 [B], -1 for none.
        context, context_mask: precomputed vectors of the captions [B, L, D], and False for padding, bool [B, L].
        moments: mean and log-variance of precomputed latents, [B, 2 C, H, W].
        attributes: numeric attributes, float32 [B, A], NaN where they are unknown.
        condition_images: second images of the rows, uint8 [B, C', H, W].
    """

    step: int
    index: int
    rows: np.ndarray
    images: Tensor
    captions: list[str]
    labels: Tensor
    context: Tensor | None = None
    context_mask: Tensor | None = None
    moments: Tensor | None = None
    attributes: Tensor | None = None
    condition_images: Tensor | None = None

    def map_tensors(self, move: Callable[[Tensor], Tensor]) -> "Microbatch":
        """Return the microbatch with ``move`` applied to each of its tensors."""
        found: dict[str, Any] = {name: move(value) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **found)


def make_microbatch(step: int, index: int, rows: np.ndarray, columns: Columns) -> Microbatch:
    """Return microbatch ``index`` of step ``step`` from decoded rows [B].

    Its images [B, C, H, W] are a view of the decoded [B, H, W, C].
    """
    images = torch.from_numpy(columns.images).permute(0, 3, 1, 2)
    moments = None if columns.moments is None else torch.from_numpy(columns.moments)
    labels = torch.from_numpy(columns.labels)
    numbers = None if columns.attributes is None else torch.from_numpy(columns.attributes)
    seconds = None if columns.condition_images is None else torch.from_numpy(columns.condition_images)
    found = Microbatch(
        step,
        index,
        rows,
        images,
        columns.captions,
        labels,
        moments=moments,
        attributes=numbers,
        condition_images=None if seconds is None else seconds.permute(0, 3, 1, 2).contiguous(),
    )
    if columns.context is None or columns.tokens is None:
        return found
    context = torch.from_numpy(columns.context)
    return replace(found, context=context, context_mask=mask_first(torch.from_numpy(columns.tokens), context.shape[1]))


def mask_first(tokens: Tensor, length: int) -> Tensor:
    """Return a mask, bool [B, length], that is True for the first ``tokens`` [B] positions of each row."""
    return torch.arange(length)[None, :] < tokens[:, None]


def read_batches(
    feed: Feed, reader: AnyReader, start: int, stop: int, rank: int = 0, world: int = 1
) -> Iterator[list[Microbatch]]:
    """Yield the microbatches of one of ``world`` ranks for each step in [start, stop), read in this process.

    Raises:
        ValueError: if there are more ranks than microbatches, or a shard is missing or damaged.
    """
    mine = feed.plan.of_rank(rank, world)
    for step in range(start, stop):
        yield [make_microbatch(step, index, *feed.read(reader, step, index)) for index in mine]


def held_out_batches(
    reader: AnyReader, rows: np.ndarray, size: int, view: View, rank: int, world: int
) -> Iterator[Microbatch]:
    """Yield one rank's microbatches of the held-out ``rows``, int64 [N]; each row is on one of ``world`` ranks.

    A microbatch holds up to ``size`` rows of one shape, and is the same for any number of ranks.

    Raises:
        ValueError: if a shard is missing or damaged, or images differ in size and the view has no shape.
    """
    shapes = [reader.shape_of(int(row), view) if reader.moments is None else (0, 0) for row in rows]
    index = 0
    for shape in sorted(set(shapes)):
        alike = rows[[found == shape for found in shapes]]
        for start in range(0, len(alike), size):
            if index % world == rank:
                part = alike[start : start + size]
                yield make_microbatch(0, index, part, reader.read(part, view))
            index += 1
