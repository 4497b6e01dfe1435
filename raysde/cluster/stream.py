"""The batch plan as one Ray Data stream: blocks of microbatches, dealt out to the workers in turn.

With M microbatches per global batch, block j holds microbatch index ``j % M`` for the steps of segment ``j // M``. The
blocks do not depend on the number of workers. With ``preserve_order`` and equal blocks, ``streaming_split(equal=True)``
hands block j to worker ``j % world``, and each worker reassembles the blocks of a segment step by step.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import ray.data

from raysde.data.batches.arrow import Canvas, from_table, to_table
from raysde.data.batches.microbatch import Feed, Microbatch, make_microbatch
from raysde.data.batches.plan import check_world, split_steps
from raysde.data.dataset.precomputed import NUMBERS, Latents, TextEmbeddings
from raysde.data.dataset.reader import open_dataset_reader
from raysde.runs.run import Run


@dataclass(frozen=True, kw_only=True)
class StreamSpec:
    """All settings that a map task needs to make any block of a stream.

    Attributes:
        path, fingerprint: location and content hash of the data set.
        feed: batch plan and view of the images.
        start, stop: first step of the stream, and the step after its last.
        block_steps: steps per block, at most; blocks are cut at its multiples.
        spare: number of blank blocks at the end, so that an equal split among workers drops no block with data.
        text, latents: precomputed embeddings and latents that the blocks carry, if any.
    """

    path: str
    fingerprint: str
    feed: Feed
    start: int
    stop: int
    block_steps: int
    spare: int = 0
    text: TextEmbeddings | None = None
    latents: Latents | None = None

    @property
    def blocks(self) -> int:
        ranges = -(-self.stop // self.block_steps) - self.start // self.block_steps if self.start < self.stop else 0
        return ranges * self.feed.plan.microbatches + self.spare

    @property
    def numbers(self) -> dict[str, np.dtype]:
        """Dtype of each precomputed tensor in a block, by its name."""
        found = {"context": self.text, "moments": self.latents}
        return {name: NUMBERS[derived.dtype] for name, derived in found.items() if derived is not None}

    def steps_of(self, number: int) -> range:
        """Return the steps of block ``number``."""
        first = (self.start // self.block_steps + number // self.feed.plan.microbatches) * self.block_steps
        return range(max(self.start, first), min(first + self.block_steps, self.stop))


def steps_in_block(image: tuple[int, int, int], images_per_step: int, megabytes: float, most: int) -> int:
    """Return the steps (1 to ``most``) in a block of about ``megabytes`` MB; ``image`` is (channels, height, width)."""
    channels, height, width = image
    return max(1, min(most, int(megabytes * 1e6 / (images_per_step * channels * height * width))))


def row_bytes(run: Run) -> int:
    """Return the bytes of one row in a block: uint8 pixels or latents, and the embeddings of its caption."""
    image = math.prod(run.spec.image)
    if run.latents is not None:
        image *= 2 * NUMBERS[run.latents.dtype].itemsize
    text = 0 if run.text is None else sum(file.bytes for file in run.text.files) // max(1, run.manifest.captions)
    return image + text


def stream_spec(run: Run, start: int) -> StreamSpec:
    """Return the stream of a run from step ``start``."""
    data = run.config.data
    return StreamSpec(
        path=run.manifest.path,
        fingerprint=run.manifest.fingerprint,
        feed=run.feed,
        start=start,
        stop=run.steps,
        block_steps=run.plan.steps_together(
            steps_in_block((1, 1, row_bytes(run)), run.plan.microbatch, data.block_megabytes, data.block_steps)
        ),
        spare=run.config.resources.most if isinstance(run.config.resources.workers, tuple) else 0,
        text=run.text,
        latents=run.latents,
    )


def make_block(spec: StreamSpec, number: int) -> pa.Table:
    """Return block ``number`` as a table, see :func:`raysde.data.batches.arrow.to_table`."""
    plan = spec.feed.plan
    index = number % plan.microbatches
    reader = open_dataset_reader(spec.path, spec.fingerprint, spec.text, spec.latents, spec.feed.fields)
    rows = spec.block_steps * plan.microbatch
    canvas = Canvas(rows * reader.largest(spec.feed.view))
    batches = [
        make_microbatch(step, index, *spec.feed.read(reader, step, index, canvas.take))
        for step in spec.steps_of(number)
    ]
    return to_table(batches, rows, spec.numbers, canvas)


def make_stream_dataset(spec: StreamSpec) -> ray.data.Dataset:
    """Return a data set with the blocks of ``spec``, in order."""
    numbers = ray.data.range(spec.blocks, override_num_blocks=max(1, spec.blocks))
    # with a batch_size, Ray Data would read and map in separate tasks; each input block has one row anyway
    return numbers.map_batches(
        lambda batch: make_block(spec, int(batch["id"].item())), batch_size=None, batch_format="numpy"
    )


def read_stream(
    shard: ray.data.DataIterator, spec: StreamSpec, channels: int, rank: int, world: int
) -> Iterator[list[Microbatch]]:
    """Yield this rank's microbatches, one list per step.

    Raises:
        ValueError: if there are more workers than microbatches, or a block of another rank arrives.
    """
    check_world(spec.feed.plan.microbatches, world)
    blocks = shard.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)  # type: ignore[arg-type]
    return group_by_step((list(from_table(block, channels)) for block in blocks), spec, rank, world)


def group_by_step(
    blocks: Iterator[list[Microbatch]], spec: StreamSpec, rank: int, world: int
) -> Iterator[list[Microbatch]]:
    """Regroup blocks ``rank``, ``rank + world``, ... of a stream and yield the microbatches of each step.

    Raises:
        ValueError: if a block arrives out of order.
    """
    total = spec.feed.plan.microbatches
    for number, (first, last) in enumerate(split_steps(spec.start, spec.stop, spec.block_steps)):
        mine = [j % total for j in range(number * total, (number + 1) * total) if j % world == rank]
        parts = [next(blocks, []) for _ in mine]
        for step in range(first, last):
            batches = [part[step - first] if step - first < len(part) else None for part in parts]
            found = [(batch.step, batch.index) if batch else None for batch in batches]
            if found != [(step, index) for index in mine]:
                raise ValueError(
                    f"the data stream does not follow the plan: rank {rank} expected microbatches {mine} of step "
                    f"{step}, got {found}"
                )
            yield [batch for batch in batches if batch is not None]
