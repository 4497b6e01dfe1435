"""The batch plan as one Ray Data stream: blocks of microbatches, handed to the ranks in turn.

Block i belongs to rank ``i % world`` and holds all its microbatches of a run of steps. With ``preserve_order`` and
equal blocks ``streaming_split(equal=True)`` deals blocks out in turn; the loop checks
the step of each microbatch it gets.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import ray.data
import torch

from raysde.data.batches import Microbatch
from raysde.data.decode import Reader
from raysde.data.plan import Plan, split_rows, steps_of_blocks
from raysde.data.shards import Manifest


@dataclass(frozen=True, kw_only=True)
class StreamSpec:
    """All that a map task needs to make any block of a stream.

    Attributes:
        manifest, plan: what is read, and in which order.
        validation, seed: of the split between training and validation rows.
        start, stop: steps of the stream.
        world: number of ranks.
        block_steps: steps in a block.
    """

    manifest: Manifest
    plan: Plan
    validation: int
    seed: int
    start: int
    stop: int
    world: int
    block_steps: int

    @property
    def runs(self) -> list[tuple[int, int]]:
        """The runs of steps, each of which makes one block for every rank."""
        return list(steps_of_blocks(self.start, self.stop, self.block_steps))

    @property
    def blocks(self) -> int:
        return len(self.runs) * self.world


def steps_in_block(image: tuple[int, int, int], images_per_step: int, megabytes: float, most: int) -> int:
    """Steps of one rank that fit a block of about ``megabytes`` decoded images, at least 1 and at most ``most``."""
    return max(1, min(most, int(megabytes * 1e6 / (images_per_step * int(np.prod(image))))))


@lru_cache(maxsize=2)
def _opened(manifest: Manifest) -> Reader:
    return Reader(manifest)


@lru_cache(maxsize=2)
def _training_rows(total: int, validation: int, seed: int) -> np.ndarray:
    return split_rows(total, validation, seed)[0]


def make_block(spec: StreamSpec, number: int) -> dict[str, np.ndarray]:
    """The columns of block ``number``: image, caption, label, row, and the step and index of each row's microbatch."""
    reader = _opened(spec.manifest)
    rows = _training_rows(spec.manifest.rows, spec.validation, spec.seed)
    first, last = spec.runs[number // spec.world]
    mine = spec.plan.of_rank(number % spec.world, spec.world)
    places = [(step, index) for step in range(first, last) for index in mine]
    chosen = np.concatenate([rows[spec.plan.rows_of(step, index)] for step, index in places])
    columns = reader.read(chosen)
    repeat = spec.plan.microbatch
    return {
        "image": columns.images,
        "caption": columns.captions,
        "label": columns.labels,
        "row": chosen,
        "step": np.repeat(np.array([step for step, _ in places]), repeat),
        "index": np.repeat(np.array([index for _, index in places]), repeat),
    }


def stream(spec: StreamSpec) -> ray.data.Dataset:
    """A data set whose blocks are those of ``spec``, in order."""
    numbers = ray.data.range(spec.blocks, override_num_blocks=max(1, spec.blocks))
    return numbers.map_batches(lambda batch: make_block(spec, int(batch["id"][0])), batch_size=1, batch_format="numpy")


def microbatches(block: dict[str, Any]) -> Iterator[Microbatch]:
    """Cuts a block where the step or the index changes."""
    step, index = np.asarray(block["step"]), np.asarray(block["index"])
    cuts = np.flatnonzero((np.diff(step) != 0) | (np.diff(index) != 0)) + 1
    for begin, end in zip([0, *cuts.tolist()], [*cuts.tolist(), len(step)], strict=True):
        yield Microbatch(
            int(step[begin]),
            int(index[begin]),
            np.array(block["row"][begin:end]),
            torch.from_numpy(np.array(block["image"][begin:end])),
            [str(caption) for caption in block["caption"][begin:end]],
            torch.from_numpy(np.array(block["label"][begin:end])),
        )


def read_stream(shard: ray.data.DataIterator, plan: Plan, rank: int, world: int) -> Iterator[list[Microbatch]]:
    """This rank's microbatches, step by step.

    Raises:
        ValueError: if a microbatch of another rank arrives.
    """
    mine = plan.of_rank(rank, world)
    waiting: list[Microbatch] = []
    blocks = shard.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=1)  # type: ignore[arg-type]
    for block in blocks:
        for batch in microbatches(block):
            if batch.index != mine[len(waiting)]:
                raise ValueError(
                    f"the data stream does not follow the plan: rank {rank} expected microbatch {mine[len(waiting)]}, "
                    f"got {batch.index} of step {batch.step}"
                )
            waiting.append(batch)
            if len(waiting) == len(mine):
                yield waiting
                waiting = []
