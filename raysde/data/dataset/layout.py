"""Map from positions to row numbers: first the full row groups of all shards, then the rest of each shard.

A data set's rows are numbered through its shards. The plan moves chunks of ``group`` neighbouring positions together.
In this order a chunk is one Parquet row group, which is read once, even if shards end with shorter row groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raysde.data.dataset.permutation import permute_numbers
from raysde.rng import SPLIT, key


class Layout:
    """The rows of some shards as positions 0..count-1.

    Args:
        starts: first row number of each shard.
        rows: number of rows of each shard.
        group: number of rows in a full row group.
    """

    def __init__(self, starts: Sequence[int], rows: Sequence[int], group: int) -> None:
        self.starts = np.asarray(starts, dtype=np.int64)
        lengths = np.asarray(rows, dtype=np.int64)
        self.group, self.count = group, int(lengths.sum())
        self.full = lengths // group * group
        self.full_before = np.concatenate([[0], np.cumsum(self.full)])
        self.tail_before = np.concatenate([[0], np.cumsum(lengths - self.full)])

    def rows_at(self, positions: np.ndarray) -> np.ndarray:
        """Return the row numbers, int64 [N], of positions [N] in 0..count-1."""
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
    """The rows of some shards without the held-out ones, indexed by the plan's positions.

    Attributes:
        layouts: one for each bucket of image sizes.
        held: held-out positions, int64 [N], sorted, in the numbering through all layouts.
    """

    layouts: tuple[Layout, ...]
    held: np.ndarray

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of rows of each bucket, without held-out rows."""
        borders = self._borders()
        before = np.searchsorted(self.held, borders)
        return tuple(int(n) for n in np.diff(borders) - np.diff(before))

    @property
    def count(self) -> int:
        return sum(layout.count for layout in self.layouts) - len(self.held)

    def _borders(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum([layout.count for layout in self.layouts])])

    def __getitem__(self, positions: np.ndarray) -> np.ndarray:
        """Return the row numbers, int64 [N], of positions [N] in 0..count-1."""
        skipped = np.searchsorted(self.held - np.arange(len(self.held)), positions, side="right")
        return self.number_positions(positions + skipped)

    def number_positions(self, positions: np.ndarray) -> np.ndarray:
        """Return the row numbers, int64 [N], of positions [N] in the numbering that includes held-out rows."""
        borders = self._borders()
        result = np.empty(len(positions), dtype=np.int64)
        bucket = np.searchsorted(borders, positions, side="right") - 1
        for number in np.unique(bucket):
            here = bucket == number
            result[here] = self.layouts[number].rows_at(positions[here] - borders[number])
        return result


@dataclass(frozen=True)
class AlignedRows(Rows):
    """The rows of some shards without the held-out ones, in an order that keeps each row group side by side.

    In :class:`Rows` each held-out row moves all later rows forward, so that chunks of positions no longer coincide with
    row groups. Here the place of a held-out row is taken by one of the rows behind the last full row group.
    """

    def __getitem__(self, positions: np.ndarray) -> np.ndarray:
        """Return the row numbers, int64 [N], of positions [N] in 0..count-1."""
        borders, starts = self._borders(), np.concatenate([[0], np.cumsum(self.sizes)])
        result = np.empty(len(positions), dtype=np.int64)
        bucket = np.searchsorted(starts, positions, side="right") - 1
        for number in np.unique(bucket).tolist():
            here = bucket == number
            first, last = np.searchsorted(self.held, borders[number : number + 2])
            held = self.held[first:last] - borders[number]
            layout = self.layouts[number]
            result[here] = layout.rows_at(_fill_places(positions[here] - starts[number], layout, held))
        return result


def _fill_places(positions: np.ndarray, layout: Layout, held: np.ndarray) -> np.ndarray:
    """Return the layout's positions, int64 [N], at ``positions`` of its rows without ``held``, row groups kept whole.

    Args:
        positions: int64 [N], in 0..count-1 of the rows that are not held out.
        held: held-out positions of the layout, int64, sorted.
    """
    rows = layout.count - len(held)
    border = min(int(layout.full_before[-1]), rows) // layout.group * layout.group
    holes, spare = np.split(held, [np.searchsorted(held, border)])
    hole = np.searchsorted(holes, positions)
    is_hole = np.append(holes, -1)[hole] == positions
    # the rows from the border on fill the holes first, in order
    rank = np.where(is_hole, hole, len(holes) + positions - border)
    passed = np.searchsorted(spare - np.arange(len(spare)), border + rank, side="right")
    return np.where((positions < border) & ~is_hole, positions, border + rank + passed)


def hold_out_rows(layouts: tuple[Layout, ...], count: int, seed: int) -> tuple[Rows, np.ndarray]:
    """Hold out ``count`` random rows; return the rows to train on, and the held-out row numbers, int64 [N], sorted.

    Args:
        seed: seed of the random choice.

    Raises:
        ValueError: if no row would be left to train on.
    """
    everything = Rows(layouts, np.empty(0, dtype=np.int64))
    held = choose_positions(everything, count, seed)
    if count >= everything.count > 0:
        raise ValueError(f"validation.rows={count} leaves none of {everything.count} rows to train on; set fewer")
    return Rows(layouts, held), np.sort(everything.number_positions(held))


def choose_positions(rows: Rows, count: int, seed: int) -> np.ndarray:
    """Return up to ``count`` distinct random positions in [0, ``rows.count``), int64 [N], sorted; ``seed`` selects
    them."""
    if not rows.count:
        return np.empty(0, dtype=np.int64)
    first = np.arange(min(count, rows.count), dtype=np.int64)
    return np.sort(permute_numbers(first, rows.count, key(seed, SPLIT)))


def locate_rows(starts: np.ndarray, group: int, rows: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Return (position in ``rows``, shard, row group, position in the row group) of each row, row group by row group.

    Args:
        starts: first row number of each shard, and the number of all rows, int64 [shards + 1].
        rows: row numbers, int64 [B].
        group: number of rows in a full row group.
    """
    shard = np.searchsorted(starts, rows, side="right") - 1
    number, inside = np.divmod(rows - starts[shard], group)
    order = np.lexsort((number, shard))
    return [(place, int(shard[place]), int(number[place]), int(inside[place])) for place in order.tolist()]
