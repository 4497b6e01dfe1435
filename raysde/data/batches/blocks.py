"""The blocks of a run's stream: the microbatches in each, how any process makes one, and how a worker regroups them.

A block holds the microbatches of one index for the steps of a segment. Segments are cut at multiples of their length,
wherever a worker group resumes and whatever its number of workers. Each worker needs only the blocks of its own
microbatches. Processes that make blocks import this module, and neither Ray nor networks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from raysde.data.batches.plan import BatchPlan, split_steps
from raysde.data.batches.reference import DataReference, SourcesReference
from raysde.data.batches.tables import Canvas, Decoded, to_table
from raysde.data.dataset.precomputed import NUMBERS
from raysde.data.dataset.sources import AnyReader

if TYPE_CHECKING:
    from raysde.data.batches.microbatch import Microbatch


@dataclass(frozen=True)
class Block:
    """The steps ``first`` to ``stop - 1`` of microbatch ``index``."""

    first: int
    stop: int
    index: int


@dataclass(frozen=True, kw_only=True)
class StreamSpec:
    """All settings that a task needs to make any block of a stream, in a few kilobytes.

    Attributes:
        data: reference to the data set, the batch plan and the view of the images.
        start, stop: first step of the stream, and the step after its last.
        block_steps: steps per segment; the first segments are shorter.
        row_bytes: size of a row in a block.
    """

    data: DataReference | SourcesReference
    start: int
    stop: int
    block_steps: int
    row_bytes: int = 1

    @property
    def plan(self) -> BatchPlan:
        return self.data.plan

    @property
    def block_bytes(self) -> int:
        """Size of a full block."""
        return self.block_steps * self.plan.microbatch * self.row_bytes

    def segments(self) -> Iterator[tuple[int, int]]:
        """Yield the first step of each segment of the stream, and the step after its last.

        The first segments have one, two, four and so on steps, so that training begins before a full block is made.
        """
        size = 1
        for first, stop in split_steps(self.start, self.stop, self.block_steps):
            while first < stop:
                yield first, min(first + size, stop)
                first, size = min(first + size, stop), min(2 * size, self.block_steps)

    def blocks_of(self, rank: int, world: int) -> Iterator[Block]:
        """Yield the blocks of one of ``world`` ranks in their order; there may be millions.

        Raises:
            ValueError: if there are more workers than microbatches.
        """
        mine = self.plan.of_rank(rank, world)
        return (Block(first, stop, index) for first, stop in self.segments() for index in mine)


def make_block(spec: StreamSpec, block: Block) -> pa.Table:
    """Return a block as a table, see :func:`raysde.data.batches.tables.to_table`."""
    feed, reader = spec.data.open()
    canvas = Canvas((block.stop - block.first) * spec.plan.microbatch * reader.largest(feed.view))
    batches = [
        Decoded(step, block.index, *feed.read(reader, step, block.index, canvas.take))
        for step in range(block.first, block.stop)
    ]
    return to_table(batches, _list_numbers(reader), canvas)


def _list_numbers(reader: AnyReader) -> dict[str, np.dtype]:
    """Return the dtype of each precomputed tensor, of the attributes and of second images in a block, by its name."""
    found = {"context": reader.contexts, "moments": reader.moments}
    numbers = {name: NUMBERS[each.derived.dtype] for name, each in found.items() if each is not None}
    numbers |= {"attributes": np.dtype(np.float32)} if reader.attributes else {}
    return numbers | ({} if reader.condition is None else {"condition_images": np.dtype(np.uint8)})


def group_by_step(
    blocks: Iterator[list["Microbatch"]], spec: StreamSpec, rank: int, world: int
) -> Iterator[list["Microbatch"]]:
    """Regroup the blocks of ``rank`` of ``world`` ranks in their order, and yield the microbatches of each step.

    Raises:
        ValueError: if there are more workers than microbatches, or a block is missing, comes twice or out of order.
    """
    mine = spec.plan.of_rank(rank, world)
    for first, stop in spec.segments():
        parts = list(islice(blocks, len(mine)))
        for step in range(first, stop):
            batches = [part[step - first] for part in parts if step - first < len(part)]
            found = [(batch.step, batch.index) for batch in batches]
            if found != [(step, index) for index in mine]:
                raise ValueError(
                    f"the data stream does not follow the plan: rank {rank} expected microbatches {mine} of step "
                    f"{step}, got {found}"
                )
            yield batches
    if next(blocks, None) is not None:
        raise ValueError(f"the data stream does not follow the plan: rank {rank} got blocks beyond step {spec.stop}")
