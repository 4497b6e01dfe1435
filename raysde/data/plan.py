"""The batch plan: which rows each microbatch of each step holds, from nothing but a seed.

Rows of an epoch are put in a random order; epochs follow one another without a gap; step k takes the next
``batch`` rows of that endless sequence. Neither workers nor restarts appear in it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from raysde.randomness import ORDER, SPLIT, key


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A deterministic sequence of global batches.

    Attributes:
        rows: number of rows that are trained on; positions 0..rows-1.
        batch: rows of a global batch.
        microbatch: rows of a microbatch, a divisor of ``batch``.
        seed: of the order.
        window: rows are shuffled among this many neighbours of a shuffled sequence of chunks; a window of at least
            ``rows`` is a uniform permutation.
        chunk: neighbouring rows that move together between windows (a Parquet row group).
    """

    rows: int
    batch: int
    microbatch: int
    seed: int
    window: int = 1 << 20
    chunk: int = 1024

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ValueError("the data set has no rows to train on")
        if self.batch < 1 or self.microbatch < 1 or self.batch % self.microbatch:
            raise ValueError(f"batch size {self.batch} is not a multiple of the microbatch size {self.microbatch}")

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
        start = step * self.batch + index * self.microbatch
        places = np.arange(start, start + self.microbatch, dtype=np.int64)
        epochs = places // self.rows
        result = np.empty(self.microbatch, dtype=np.int64)
        for epoch in np.unique(epochs):
            inside = epochs == epoch
            result[inside] = epoch_order(self.rows, self.window, self.chunk, self.seed, int(epoch))[
                places[inside] % self.rows
            ]
        return result

    def of_rank(self, rank: int, world: int) -> list[int]:
        """The microbatches of each global batch that ``rank`` of ``world`` computes.

        Raises:
            ValueError: if the workers do not divide the microbatches.
        """
        if self.microbatches % world:
            raise ValueError(
                f"{self.microbatches} microbatches (batch {self.batch} / microbatch {self.microbatch}) "
                f"cannot be shared by {world} workers"
            )
        each = self.microbatches // world
        return list(range(rank * each, (rank + 1) * each))


def random_order(count: int, seed: int, *path: int) -> np.ndarray:
    """A permutation of 0..count-1 from raw Philox words, which numpy promises to keep."""
    words = np.random.Philox(key=key(seed, *path)).random_raw(count)
    return np.argsort(words, kind="stable")


@lru_cache(maxsize=2)
def epoch_order(rows: int, window: int, chunk: int, seed: int, epoch: int) -> np.ndarray:
    """The order of rows in one epoch: chunks shuffled, then rows shuffled within windows."""
    if window >= rows:
        return random_order(rows, seed, ORDER, epoch)
    chunks = random_order(-(-rows // chunk), seed, ORDER, epoch)
    order = np.concatenate([np.arange(c * chunk, min(rows, (c + 1) * chunk)) for c in chunks])
    for number, start in enumerate(range(0, rows, window)):
        part = order[start : start + window]
        order[start : start + window] = part[random_order(len(part), seed, ORDER, epoch, number)]
    return order


def split_rows(total: int, validation: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers for training and for validation, each sorted; the validation rows are chosen at random.

    Raises:
        ValueError: if no row would be left to train on.
    """
    if validation >= total:
        raise ValueError(f"validation.rows={validation} leaves nothing of {total} rows to train on")
    order = random_order(total, seed, SPLIT)
    return np.sort(order[validation:]), np.sort(order[:validation])


def steps_of_blocks(start: int, stop: int, steps: int) -> Iterator[tuple[int, int]]:
    """Cuts [start, stop) into runs of ``steps`` steps; the last may be shorter."""
    for first in range(start, stop, steps):
        yield first, min(first + steps, stop)
