"""Microbatches, the unit of training: the rows of the plan with the images, captions and labels in them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raysde.data.decode import Columns, Reader
from raysde.data.plan import Plan


@dataclass(frozen=True)
class Microbatch:
    """Images uint8 [B, C, H, W] with captions and labels int64 [B] (-1 for none).

    Attributes:
        step, index: its place in the plan.
        rows: the data set's row numbers, int64 [B].
    """

    step: int
    index: int
    rows: np.ndarray
    images: Tensor
    captions: list[str]
    labels: Tensor


def microbatch(step: int, index: int, rows: np.ndarray, columns: Columns) -> Microbatch:
    """A microbatch of decoded rows."""
    return Microbatch(
        step, index, rows, torch.from_numpy(columns.images), list(columns.captions), torch.from_numpy(columns.labels)
    )


def read_batches(
    plan: Plan, reader: Reader, rows: np.ndarray, start: int, stop: int, rank: int = 0, world: int = 1
) -> Iterator[list[Microbatch]]:
    """The microbatches of one rank, step by step over [start, stop), read in this process.

    Args:
        rows: the data set's row number of each row position of the plan.
    """
    mine = plan.of_rank(rank, world)
    for step in range(start, stop):
        result = []
        for index in mine:
            chosen = rows[plan.rows_of(step, index)]
            result.append(microbatch(step, index, chosen, reader.read(chosen)))
        yield result
