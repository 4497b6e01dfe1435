"""Microbatches, the unit of training: the rows of the plan with the images, captions and labels in them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raysde.data.batches.plan import Plan
from raysde.data.dataset.layout import Rows
from raysde.data.dataset.reader import Columns, Reader, allocate_images
from raysde.data.dataset.view import View, draw_uniforms


@dataclass(frozen=True)
class Microbatch:
    """Images uint8 [B, C, H, W] with captions and labels int64 [B] (-1 for none).

    Attributes:
        step, index: its place in the plan.
        rows: the data set's row numbers, int64 [B].
        context, context_mask: vectors [B, L, D] of the captions and which are real, bool [B, L], where precomputed.
        moments: posteriors [B, 2 C, H, W] of the images' latents, in whose place the images are then empty.
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

    def map_tensors(self, move: Callable[[Tensor], Tensor]) -> "Microbatch":
        """The same with ``move`` applied to each of its tensors."""
        found: dict[str, Any] = {name: move(value) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **found)


def make_microbatch(step: int, index: int, rows: np.ndarray, columns: Columns) -> Microbatch:
    """A microbatch of decoded rows; the images stay in memory as they were decoded, channels last."""
    images = torch.from_numpy(columns.images).permute(0, 3, 1, 2)
    moments = None if columns.moments is None else torch.from_numpy(columns.moments)
    labels = torch.from_numpy(columns.labels)
    found = Microbatch(step, index, rows, images, columns.captions, labels, moments=moments)
    if columns.context is None or columns.tokens is None:
        return found
    context = torch.from_numpy(columns.context)
    return replace(found, context=context, context_mask=mask_first(torch.from_numpy(columns.tokens), context.shape[1]))


def mask_first(tokens: Tensor, length: int) -> Tensor:
    """bool [B, length], True for the first ``tokens`` [B] of each row."""
    return torch.arange(length)[None, :] < tokens[:, None]


@dataclass(frozen=True)
class Feed:
    """Where the microbatches of a run come from: which rows, shown how.

    Attributes:
        plan: positions of each microbatch.
        rows: what the positions stand for.
        view: how images are shown.
    """

    plan: Plan
    rows: Rows
    view: View = field(default_factory=View)

    def read(
        self, reader: Reader, step: int, index: int, take: Callable[[tuple[int, ...]], np.ndarray] = allocate_images
    ) -> tuple[np.ndarray, Columns]:
        """Row numbers and content of a microbatch, whose images lie in memory from ``take``."""
        chosen = self.rows[self.plan.rows_of(step, index)]
        return chosen, reader.read(chosen, self.view, draw_uniforms(self.plan.seed, step, index, len(chosen)), take)


def read_batches(
    feed: Feed, reader: Reader, start: int, stop: int, rank: int = 0, world: int = 1
) -> Iterator[list[Microbatch]]:
    """The microbatches of one rank, step by step over [start, stop), read in this process."""
    mine = feed.plan.of_rank(rank, world)
    for step in range(start, stop):
        yield [make_microbatch(step, index, *feed.read(reader, step, index)) for index in mine]


def held_out_batches(
    reader: Reader, rows: np.ndarray, size: int, view: View, rank: int, world: int
) -> Iterator[Microbatch]:
    """This rank's share of the held-out rows, each row on exactly one rank; the microbatches are those of any world."""
    shapes = [reader.shape_of(int(row), view) if reader.moments is None else (0, 0) for row in rows]
    index = 0
    for shape in sorted(set(shapes)):
        alike = rows[[found == shape for found in shapes]]
        for start in range(0, len(alike), size):
            if index % world == rank:
                part = alike[start : start + size]
                yield make_microbatch(0, index, part, reader.read(part, view))
            index += 1
