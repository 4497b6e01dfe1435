"""Positions to row numbers: full row groups first, then what is left at the end of each shard.

A data set's rows are numbered through its shards. The plan shuffles runs of ``group`` neighbouring positions together;
in this order such a run is one row group of Parquet, which is read once, also where shards end with a shorter one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raysde.data.dataset.permutation import permute_numbers
from raysde.rng import SPLIT, key


class Layout:
    """The rows of some shards as positions 0..count-1.

    Args:
        starts: the first row number of each shard.
        rows: its number of rows.
        group: rows of a full row group.
    """

    def __init__(self, starts: Sequence[int], rows: Sequence[int], group: int) -> None:
        self.starts = np.asarray(starts, dtype=np.int64)
        lengths = np.asarray(rows, dtype=np.int64)
        self.group, self.count = group, int(lengths.sum())
        self.full = lengths // group * group
        self.full_before = np.concatenate([[0], np.cumsum(self.full)])
        self.tail_before = np.concatenate([[0], np.cumsum(lengths - self.full)])

    def rows_at(self, positions: np.ndarray) -> np.ndarray:
        """Row numbers, int64, of positions in 0..count-1."""
        border = self.full_before[-1]
        shard = np.searchsorted(self.full_before, positions, side="right") - 1
        tail = np.searchsorted(self.tail_before, positions - border, side="right") - 1
        last = len(self.starts) - 1
        shard, tail = np.clip(shard, 0, last), np.clip(tail, 0, last)
        inside = self.starts[shard] + positions - self.full_before[shard]
        beyond = self.starts[tail] + self.full[tail] + positions - border - self.tail_before[tail]
        return np.where(positions < border, inside, beyond)


@dataclass(frozen=True)
class Rows:
    """The rows of some shards without those held out; what the plan's positions stand for.

    Attributes:
        layouts: one for each bucket of image sizes.
        held: positions that are left out, sorted, in the numbering that goes through all layouts.
    """

    layouts: tuple[Layout, ...]
    held: np.ndarray

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of rows of each bucket."""
        borders = self._borders()
        before = np.searchsorted(self.held, borders)
        return tuple(int(n) for n in np.diff(borders) - np.diff(before))

    @property
    def count(self) -> int:
        return sum(layout.count for layout in self.layouts) - len(self.held)

    def _borders(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum([layout.count for layout in self.layouts])])

    def __getitem__(self, positions: np.ndarray) -> np.ndarray:
        """Row numbers, int64, of positions in 0..count-1."""
        skipped = np.searchsorted(self.held - np.arange(len(self.held)), positions, side="right")
        return self.number_positions(positions + skipped)

    def number_positions(self, positions: np.ndarray) -> np.ndarray:
        """Row numbers of positions that count held-out rows too."""
        borders = self._borders()
        result = np.empty(len(positions), dtype=np.int64)
        bucket = np.searchsorted(borders, positions, side="right") - 1
        for number in np.unique(bucket):
            here = bucket == number
            result[here] = self.layouts[number].rows_at(positions[here] - borders[number])
        return result


def hold_out_rows(layouts: tuple[Layout, ...], count: int, seed: int) -> tuple[Rows, np.ndarray]:
    """Splits rows into those to train on and ``count`` randomly chosen others, whose sorted numbers are returned.

    Raises:
        ValueError: if no row would be left to train on.
    """
    everything = Rows(layouts, np.empty(0, dtype=np.int64))
    held = choose_positions(everything, count, seed)
    if count >= everything.count > 0:
        raise ValueError(f"validation.rows={count} leaves nothing of {everything.count} rows to train on")
    return Rows(layouts, held), np.sort(everything.number_positions(held))


def choose_positions(rows: Rows, count: int, seed: int) -> np.ndarray:
    """Up to ``count`` random positions, sorted."""
    if not rows.count:
        return np.empty(0, dtype=np.int64)
    first = np.arange(min(count, rows.count), dtype=np.int64)
    return np.sort(permute_numbers(first, rows.count, key(seed, SPLIT)))


def locate_rows(starts: np.ndarray, group: int, rows: np.ndarray) -> list[tuple[int, int, int, int]]:
    """For each of ``rows`` its place among them, its shard, its row group and its place in that; group by group.

    Args:
        starts: the first row number of each shard, and the total.
        group: rows of a full row group.
    """
    shard = np.searchsorted(starts, rows, side="right") - 1
    number, inside = np.divmod(rows - starts[shard], group)
    order = np.lexsort((number, shard))
    return [(place, int(shard[place]), int(number[place]), int(inside[place])) for place in order.tolist()]
