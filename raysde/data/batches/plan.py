"""The batch plan: the rows of each microbatch of each step, determined by a seed.

The rows of each epoch are shuffled, and epochs follow one another without a gap. The sequence depends neither on
workers nor on restarts, and any position of it is computed without the positions before it.

In a plan without lanes, step k takes the next ``batch`` rows of this endless sequence. In a plan with lanes, each
microbatch index is a lane with a few row groups of its own, so that a process that makes microbatches of one index
reads each of these row groups once. A segment is the steps that a lane takes for its row groups. A global batch mixes
the row groups of all lanes.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from raysde.data.batches.chunks import chunk_positions
from raysde.data.dataset.permutation import permute_numbers
from raysde.rng import BUCKETS, CHUNKS, LANES, ORDER, key

WINDOWED, LANED, MIXED = 1, 2, 3
"""Versions of the reading order: windows of one sequence, lanes, and lanes of several or weighted sources.
Checkpoints record the version."""


@dataclass(frozen=True, kw_only=True)
class BatchPlan(ABC):
    """Global batches cut into microbatches, which :class:`Plan` and other plans fill with rows.

    Attributes:
        rows: number of rows in an epoch.
        batch: number of rows in a global batch.
        microbatch: number of rows in a microbatch, a divisor of ``batch``.
        seed: seed of the order.
        order: version of the order.

    Raises:
        ValueError: if there are no rows, or ``batch`` is no multiple of ``microbatch``.
    """

    rows: int
    batch: int
    microbatch: int
    seed: int
    order: int

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ValueError("the data set has no rows to train on")
        if self.batch < 1 or self.microbatch < 1 or self.batch % self.microbatch:
            raise ValueError(
                f"batch size {self.batch} is not a multiple of the microbatch size {self.microbatch}"
                "; change one of them"
            )

    @property
    def microbatches(self) -> int:
        """Number of microbatches in a global batch."""
        return self.batch // self.microbatch

    @property
    @abstractmethod
    def has_lanes(self) -> bool:
        """True if each microbatch index reads row groups of its own."""

    @property
    @abstractmethod
    def segment(self) -> int:
        """Number of steps in a segment; segment k has the steps k * segment up to (k + 1) * segment.

        The microbatches of one index in a segment read the same row groups, and those of other segments read others.
        Without lanes, each step is a segment of its own.
        """

    @abstractmethod
    def rows_of(self, step: int, index: int) -> np.ndarray:
        """Return the row positions, int64 [microbatch], of microbatch ``index`` of ``step``."""

    def steps_together(self, most: int) -> int:
        """Return the number of steps, at most ``most``, for which a process should make microbatches of one index.

        Ranges cut at its multiples lie within one segment. A whole segment reads each of its row groups once.
        """
        return max(n for n in range(1, most + 1) if self.segment % n == 0) if self.has_lanes else most

    def epoch(self, step: int) -> float:
        """Return the number of epochs, fractional, that are completed before ``step``."""
        return step * self.batch / self.rows

    def of_rank(self, rank: int, world: int) -> list[int]:
        """Return the indices of the microbatches of each global batch that ``rank`` of ``world`` ranks computes.

        Raises:
            ValueError: if there are more workers than microbatches.
        """
        check_world(self.microbatches, world)
        return list(range(rank, self.microbatches, world))


@dataclass(frozen=True, kw_only=True)
class Plan(BatchPlan):
    """A deterministic sequence of global batches.

    Attributes:
        rows: number of training rows, at positions 0..rows-1.
        batch: number of rows in a global batch.
        microbatch: number of rows in a microbatch, a divisor of ``batch``.
        seed: seed of the order.
        window: shuffle buffer in rows: the chunks are shuffled first, then the rows within each window. A window of at
            least ``rows`` shuffles all rows at once. In a plan with lanes, the window of all lanes together, a multiple
            of ``batch``.
        chunk: number of neighbouring rows that move together between windows (a Parquet row group).
        buckets: number of rows of each image size, in the order of positions, if there are several sizes. A microbatch
            then holds rows of one bucket, and microbatches of all buckets are mixed at random; in a plan with lanes,
            the microbatches of a lane within a segment have one bucket.
        order: ``WINDOWED`` or ``LANED``, the version of the order. They agree if all rows are shuffled at once.

    Raises:
        ValueError: if there are no rows, or ``batch`` is no multiple of ``microbatch``.
    """

    window: int = 1 << 16
    chunk: int = 1024
    buckets: tuple[int, ...] = ()
    order: int = WINDOWED

    def __post_init__(self) -> None:
        super().__post_init__()
        assert not self.buckets or sum(self.buckets) == self.rows
        assert self.order in (WINDOWED, LANED)
        assert not self.has_lanes or self.window % self.batch == 0

    @property
    def has_lanes(self) -> bool:
        return self.order == LANED and self.window < self.rows

    @property
    def segment(self) -> int:
        return self.window // self.batch if self.has_lanes else 1

    def rows_of(self, step: int, index: int) -> np.ndarray:
        assert 0 <= index < self.microbatches
        segment, inside = divmod(step, self.segment)
        number, unit = segment * self.microbatches + index, self.segment * self.microbatch
        bucket, first, rows = 0, 0, self.rows
        if len(self.buckets) > 1:
            bucket, number = self._bucket_of(number, unit)
            first, rows = sum(self.buckets[:bucket]), self.buckets[bucket]
        places = np.arange(inside * self.microbatch, (inside + 1) * self.microbatch, dtype=np.int64)
        if self.has_lanes:
            places = permute_numbers(places, unit, key(self.seed, LANES, number, bucket))
        return first + self._endless(number * unit + places, bucket, rows)

    def _endless(self, places: np.ndarray, bucket: int, rows: int) -> np.ndarray:
        """Return positions, int64 [N], at ``places`` [N] of the endless epochs of a bucket's rows."""
        epochs = places // rows
        result = np.empty(len(places), dtype=np.int64)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            seed, inside = key(self.seed, ORDER, epoch, bucket), places[here] - epoch * rows
            if self.has_lanes:
                result[here] = chunk_positions(inside, epoch, rows, self.chunk, seed)
            else:
                result[here] = epoch_order(inside, rows, self.window, self.chunk, seed)
        return result

    def _bucket_of(self, number: int, unit: int) -> tuple[int, int]:
        """Return the bucket of the ``number``-th unit of ``unit`` rows, and the unit's number within the bucket.

        In epoch e bucket b, of n_b rows, has floor((e + 1) n_b / u) - floor(e n_b / u) units of u rows, so that its
        rows follow one another without a gap. The units of all buckets are in random order.
        """
        epoch = number * unit // self.rows
        while sum(self._count_before(epoch + 1, unit)) <= number:
            epoch += 1
        before = self._count_before(epoch, unit)
        ends = np.cumsum(
            [after - start for start, after in zip(before, self._count_before(epoch + 1, unit), strict=True)]
        )
        slot = np.array([number - sum(before)])
        place = int(permute_numbers(slot, int(ends[-1]), key(self.seed, BUCKETS, epoch))[0])
        bucket = int(np.searchsorted(ends, place, side="right"))
        return bucket, before[bucket] + place - (int(ends[bucket - 1]) if bucket else 0)

    def _count_before(self, epoch: int, unit: int) -> list[int]:
        """Return the number of units of each bucket before ``epoch``."""
        return [epoch * rows // unit for rows in self.buckets]


def check_world(microbatches: int, world: int) -> None:
    """Check that every one of ``world`` workers gets a microbatch of each global batch.

    Raises:
        ValueError: if there are more workers than microbatches.
    """
    if world > microbatches:
        raise ValueError(
            f"{microbatches} microbatches in a global batch are too few for {world} workers; "
            "use fewer workers or a smaller train.microbatch"
        )


def epoch_order(places: np.ndarray, rows: int, window: int, chunk: int, seed: int) -> np.ndarray:
    """Return the row positions, int64 [N], at ``places`` of one epoch: chunks are shuffled, then rows within windows.

    Args:
        places: int64 [N], in 0..rows-1.
        window, chunk: attributes of :class:`Plan`.
        seed: the key of this epoch.
    """
    if window >= rows:
        return permute_numbers(places, rows, seed)
    result = np.empty_like(places)
    numbers = places // window
    for number in np.unique(numbers):
        here = numbers == number
        start = int(number) * window
        length = min(window, rows - start)
        result[here] = start + permute_numbers(places[here] - start, length, key(seed, int(number)))
    return _shuffle_chunks(result, rows, chunk, seed)


def _shuffle_chunks(places: np.ndarray, rows: int, chunk: int, seed: int) -> np.ndarray:
    """Return ``places`` int64 [N] after a shuffle of whole chunks; the last, shorter one is inserted at random."""
    full, rest = divmod(rows, chunk)
    border = key(seed, CHUNKS, 0) % (full + 1) * chunk  # start of the short chunk
    beyond = places >= border + rest
    slots = np.where(beyond, places - rest, places) // chunk
    short = (places >= border) & ~beyond
    result = full * chunk + places - border
    if full:
        moved = permute_numbers(slots[~short], full, key(seed, CHUNKS, 1))
        result[~short] = moved * chunk + (np.where(beyond, places - rest, places) % chunk)[~short]
    return result


def split_steps(start: int, stop: int, steps: int) -> Iterator[tuple[int, int]]:
    """Yield (first, stop) of consecutive ranges in [start, stop), cut at the multiples of ``steps``."""
    while start < stop:
        first, start = start, min((start // steps + 1) * steps, stop)
        yield first, start
