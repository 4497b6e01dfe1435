"""The batch plan: which rows each microbatch of each step holds, from nothing but a seed.

Rows of an epoch are put in a random order; epochs follow one another without a gap; step k takes the next
``batch`` rows of that endless sequence. Neither workers nor restarts appear in it, and any place of it is
computed without the places before it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from raysde.data.dataset.permutation import permute_numbers
from raysde.rng import BUCKETS, CHUNKS, ORDER, key


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A deterministic sequence of global batches.

    Attributes:
        rows: number of rows that are trained on; positions 0..rows-1.
        batch: rows of a global batch.
        microbatch: rows of a microbatch, a divisor of ``batch``.
        seed: of the order.
        window: rows are shuffled among this many neighbours of a shuffled sequence of chunks; a window of at least
            ``rows`` is a permutation of all.
        chunk: neighbouring rows that move together between windows (a Parquet row group).
        buckets: numbers of rows of one image size, positions in this order, if there are several sizes; a microbatch
            then holds rows of one bucket, and microbatches of all buckets are mixed at random.
    """

    rows: int
    batch: int
    microbatch: int
    seed: int
    window: int = 1 << 16
    chunk: int = 1024
    buckets: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ValueError("the data set has no rows to train on")
        if self.batch < 1 or self.microbatch < 1 or self.batch % self.microbatch:
            raise ValueError(f"batch size {self.batch} is not a multiple of the microbatch size {self.microbatch}")
        assert not self.buckets or sum(self.buckets) == self.rows

    @property
    def microbatches(self) -> int:
        """Microbatches in a global batch."""
        return self.batch // self.microbatch

    def epoch(self, step: int) -> float:
        """Epochs completed before ``step``."""
        return step * self.batch / self.rows

    def rows_of(self, step: int, index: int) -> np.ndarray:
        """Row positions int64 [microbatch] of microbatch ``index`` of ``step``."""
        assert 0 <= index < self.microbatches
        number = step * self.microbatches + index
        if len(self.buckets) < 2:
            return self._endless(number, 0, self.rows)
        bucket, number = self._bucket_of(number)
        return sum(self.buckets[:bucket]) + self._endless(number, bucket, self.buckets[bucket])

    def _endless(self, number: int, bucket: int, rows: int) -> np.ndarray:
        """Microbatch ``number`` of the endless sequence of a bucket's epochs."""
        places = np.arange(number * self.microbatch, (number + 1) * self.microbatch, dtype=np.int64)
        epochs = places // rows
        result = np.empty(self.microbatch, dtype=np.int64)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            here = epochs == epoch
            result[here] = epoch_order(
                places[here] - epoch * rows, rows, self.window, self.chunk, key(self.seed, ORDER, epoch, bucket)
            )
        return result

    def _bucket_of(self, number: int) -> tuple[int, int]:
        """The bucket of the microbatch ``number``, and its number among the bucket's own.

        In epoch e bucket b has floor((e + 1) n_b / m) - floor(e n_b / m) microbatches, so that its rows follow one
        another without a gap; their order among the other buckets' is random.
        """
        epoch = number * self.microbatch // self.rows
        while sum(self._count_before(epoch + 1)) <= number:
            epoch += 1
        before = self._count_before(epoch)
        ends = np.cumsum([after - start for start, after in zip(before, self._count_before(epoch + 1), strict=True)])
        slot = np.array([number - sum(before)])
        place = int(permute_numbers(slot, int(ends[-1]), key(self.seed, BUCKETS, epoch))[0])
        bucket = int(np.searchsorted(ends, place, side="right"))
        return bucket, before[bucket] + place - (int(ends[bucket - 1]) if bucket else 0)

    def _count_before(self, epoch: int) -> list[int]:
        """Microbatches of each bucket before ``epoch``."""
        return [epoch * rows // self.microbatch for rows in self.buckets]

    def of_rank(self, rank: int, world: int) -> list[int]:
        """The microbatches of each global batch that ``rank`` of ``world`` computes.

        Raises:
            ValueError: if there are more workers than microbatches.
        """
        check_world(self.microbatches, world)
        return list(range(rank, self.microbatches, world))


def check_world(microbatches: int, world: int) -> None:
    """Every worker needs a microbatch of each global batch.

    Raises:
        ValueError: if there are more workers than microbatches.
    """
    if world > microbatches:
        raise ValueError(f"{microbatches} microbatches in a global batch are too few for {world} workers")


def epoch_order(places: np.ndarray, rows: int, window: int, chunk: int, seed: int) -> np.ndarray:
    """The row positions at ``places`` of one epoch: chunks shuffled, then rows shuffled within windows.

    Args:
        places: int64, in 0..rows-1.
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
    """Shuffles whole chunks; the last, shorter one gets a place of its own."""
    full, rest = divmod(rows, chunk)
    border = key(seed, CHUNKS, 0) % (full + 1) * chunk  # where the short chunk begins
    beyond = places >= border + rest
    slots = np.where(beyond, places - rest, places) // chunk
    short = (places >= border) & ~beyond
    result = full * chunk + places - border
    if full:
        moved = permute_numbers(slots[~short], full, key(seed, CHUNKS, 1))
        result[~short] = moved * chunk + (np.where(beyond, places - rest, places) % chunk)[~short]
    return result


def split_steps(start: int, stop: int, steps: int) -> Iterator[tuple[int, int]]:
    """Cuts [start, stop) into runs of ``steps`` steps; the last may be shorter."""
    for first in range(start, stop, steps):
        yield first, min(first + steps, stop)
