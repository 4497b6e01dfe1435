"""A run's stream on Ray Data: each worker's own blocks in slices, data sets that are bounded, fit a share, and end.

A data set of all blocks of a run would create its tasks before the first of them runs, and one process would pass on
the blocks of all workers. Here each worker executes data sets of its own next blocks, one while it consumes the other.
Look-ahead, start-up and memory therefore depend neither on the length of the run nor on the number of workers, and a
slow task holds up its own worker only.

A slice is bounded by its number of blocks. Ray Data's own limits are off: its executor in Ray 2.60 spins at its limit
of bytes (see :mod:`raysde.cluster.backpressure`), and its coordinator divides the CPUs of each node among all executors
in whole numbers, which leaves none for 128 of them (ray-project/ray#63924).
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.data._internal.execution.backpressure_policy import (
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
    ConcurrencyCapBackpressurePolicy,
)
from ray.data._internal.execution.interfaces import RefBundle

from raysde.cluster.backpressure import set_up_data
from raysde.cluster.resources import DataShare
from raysde.conditioning.images import ColumnCondition
from raysde.data.batches.arrow import from_table
from raysde.data.batches.blocks import Block, StreamSpec, group_by_step, make_block
from raysde.data.batches.microbatch import Microbatch
from raysde.data.batches.prefetch import fetch_ahead
from raysde.data.dataset.precomputed import NUMBERS
from raysde.runs.run import Run

MOST_BLOCKS = 32
"""Largest number of blocks in a slice."""


def steps_in_block(image: tuple[int, int, int], images_per_step: int, megabytes: float, most: int) -> int:
    """Return the steps (1 to ``most``) in a block of about ``megabytes`` MB; ``image`` is (channels, height, width)."""
    channels, height, width = image
    return max(1, min(most, int(megabytes * 1e6 / (images_per_step * channels * height * width))))


def row_bytes(run: Run) -> int:
    """Return the bytes of one row in a block: uint8 pixels or latents, the embeddings of its caption, and the pixels of
    its second image."""
    image = math.prod(run.spec.image)
    if run.latents is not None:
        image *= 2 * NUMBERS[run.latents.dtype].itemsize
    texts = [source.text for source in run.sources.sources if source.text is not None]
    text = sum(file.bytes for each in texts for file in each.files) // max(1, run.manifest.captions)
    condition = run.spec.image_condition
    height, width = (run.spec.image[1] * run.spec.fold, run.spec.image[2] * run.spec.fold)
    second = (condition.channels or 0) * height * width if isinstance(condition, ColumnCondition) else 0
    return image + text + second


def stream_spec(run: Run, start: int, stop: int | None = None) -> StreamSpec:
    """Return the stream of a run's plan positions [start, stop); None stops at the run's length."""
    data, size = run.config.data, row_bytes(run)
    return StreamSpec(
        data=run.sources.reference(run.config, run.feed),
        start=start,
        stop=run.steps if stop is None else stop,
        block_steps=run.plan.steps_together(
            steps_in_block((1, 1, size), run.plan.microbatch, data.block_megabytes, data.block_steps)
        ),
        row_bytes=size,
    )


def blocks_in_slice(share: DataShare, block_bytes: int, held: int) -> int:
    """Return the number of blocks in a slice, at least 1.

    Args:
        block_bytes: size of a block.
        held: number of blocks that the worker holds beside one and a half slices.
    """
    return max(1, min(MOST_BLOCKS, (int(share.bytes // block_bytes) - held) * 2 // 3))


def make_slice(spec: StreamSpec, blocks: list[Block], share: DataShare) -> ray.data.Dataset:
    """Return a data set whose blocks are ``blocks``, in order, each made by a task of its own."""

    def make(batch: dict[str, np.ndarray]) -> pa.Table:
        return make_block(spec, blocks[int(batch["item"].item())])

    numbers = ray.data.from_items(list(range(len(blocks))), override_num_blocks=len(blocks))
    tasks = ray.data.TaskPoolStrategy(size=min(share.tasks, len(blocks)))
    made = numbers.map_batches(make, batch_size=None, batch_format="numpy", compute=tasks)
    context = made.context
    context.execution_options.preserve_order = True
    context.execution_options.label_selector = dict(share.nodes) or None
    context.target_max_block_size = None  # a block is not split
    context.op_resource_reservation_enabled = False
    context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, [ConcurrencyCapBackpressurePolicy])
    return made


def read_blocks(spec: StreamSpec, rank: int, world: int, find_share: Callable[[], DataShare]) -> Iterator[pa.Table]:
    """Yield the blocks of a rank in order; the next slice starts when half of the current one is consumed.

    Args:
        rank, world: number of this worker, from 0, and the number of workers.
        find_share: returns the present share; it is called for each slice, since clusters grow and shrink.

    Raises:
        ValueError: if there are more workers than microbatches.
    """
    set_up_data()
    blocks, held = spec.blocks_of(rank, world), 2 * len(spec.plan.of_rank(rank, world))

    def start_slice() -> tuple[Iterator[RefBundle], int]:
        share = find_share()
        chosen = list(islice(blocks, blocks_in_slice(share, spec.block_bytes, held)))
        return make_slice(spec, chosen, share).iter_internal_ref_bundles() if chosen else iter(()), len(chosen)

    starter = ThreadPoolExecutor(1, "slice")  # Ray Data starts a data set and waits for its first block
    try:
        current, size = starter.submit(start_slice).result()
        while size:
            upcoming = None
            for number, bundle in enumerate(current):
                if number == size // 2:
                    upcoming = starter.submit(start_slice)
                (entry,) = bundle.blocks
                block: pa.Table = ray.get(entry.ref)  # type: ignore[call-overload]
                yield block
            current, size = (upcoming or starter.submit(start_slice)).result()
    finally:
        starter.shutdown(wait=False, cancel_futures=True)


def read_stream(
    spec: StreamSpec, channels: int, rank: int, world: int, find_share: Callable[[], DataShare]
) -> Iterator[list[Microbatch]]:
    """Yield this rank's microbatches, one list per step.

    Args:
        channels: number of colour channels of the images.
        rank, world: number of this worker, from 0, and the number of workers.
        find_share: see :func:`read_blocks`.

    Raises:
        ValueError: if there are more workers than microbatches, or the blocks do not follow the plan.
    """
    held = len(spec.plan.of_rank(rank, world))
    tables = fetch_ahead(read_blocks(spec, rank, world, find_share), held)
    return group_by_step((list(from_table(table, channels)) for table in tables), spec, rank, world)
