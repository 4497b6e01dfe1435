"""The batch plan: the rows of each microbatch of each step, determined by a seed.

The rows of each epoch are shuffled, and epochs follow one another without a gap. Step k takes the next ``batch`` rows
of this endless sequence. The sequence depends neither on workers nor on restarts, and any position of it is computed
without the positions before it.
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
        rows: number of training rows, at positions 0..rows-1.
        batch: number of rows in a global batch.
        microbatch: number of rows in a microbatch, a divisor of ``batch``.
        seed: seed of the order.
        window: shuffle buffer in rows: the chunks are shuffled first, then the rows within each window. A window of at
            least ``rows`` shuffles all rows at once.
        chunk: number of neighbouring rows that move together between windows (a Parquet row group).
        buckets: number of rows of each image size, in the order of positions, if there are several sizes. A microbatch
            then holds rows of one bucket, and microbatches of all buckets are mixed at random.

    Raises:
        ValueError: if there are no rows, or ``batch`` is no multiple of ``microbatch``.
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
            raise ValueError(
                f"batch size {self.batch} is not a multiple of the microbatch size {self.microbatch}"
                "; change one of them"
            )
        assert not self.buckets or sum(self.buckets) == self.rows

    @property
    def microbatches(self) -> int:
        """Number of microbatches in a global batch."""
        return self.batch // self.microbatch

    def epoch(self, step: int) -> float:
        """Return the number of epochs, fractional, that are completed before ``step``."""
        return step * self.batch / self.rows

    def rows_of(self, step: int, index: int) -> np.ndarray:
        """Return the row positions, int64 [microbatch], of microbatch ``index`` of ``step``."""
        assert 0 <= index < self.microbatches
        number = step * self.microbatches + index
        if len(self.buckets) < 2:
            return self._endless(number, 0, self.rows)
        bucket, number = self._bucket_of(number)
        return sum(self.buckets[:bucket]) + self._endless(number, bucket, self.buckets[bucket])

    def _endless(self, number: int, bucket: int, rows: int) -> np.ndarray:
        """Return positions, int64 [microbatch], of microbatch ``number`` in the endless epochs of a bucket's rows."""
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
        """Return the bucket of microbatch ``number``, and its number within the bucket.

        In epoch e bucket b, of n_b rows, has floor((e + 1) n_b / m) - floor(e n_b / m) microbatches of m rows, so that
        its rows follow one another without a gap. The microbatches of all buckets are in random order.
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
        """Return the number of microbatches of each bucket before ``epoch``."""
        return [epoch * rows // self.microbatch for rows in self.buckets]

    def of_rank(self, rank: int, world: int) -> list[int]:
        """Return the indices of the microbatches of each global batch that ``rank`` of ``world`` ranks computes.

        Raises:
            ValueError: if there are more workers than microbatches.
        """
        check_world(self.microbatches, world)
        return list(range(rank, self.microbatches, world))


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
