"""Rows that an epoch draws in proportion to weights, each within one draw of its share.

The rows lie on a line in their order, each as long as its share of the draws of an epoch, and an epoch draws the row at
every whole number plus an offset (systematic sampling, Madow 1949). A row with the share s is drawn floor(s) or ceil(s)
times. The offset of the next epoch is the golden ratio further, modulo one (a Kronecker sequence), so that over many
epochs the sum of the rounding errors grows with the logarithm of their number at most.

Neighbouring draws lie in the same row group. Groups with more draws than rows are visited several times in an epoch,
and each visit takes every V-th of the draws, so that copies of a row lie apart. Chunks of as many draws as a row group
has rows therefore touch at most twice as many row groups in an epoch as the data set has, whatever the weights.
"""

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from raysde.data.dataset.layout import Rows
from raysde.rng import WEIGHTS, key

GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


@dataclass(frozen=True, eq=False)
class WeightedRows:
    """The rows of a data set, indexed by their places in endless epochs of weighted draws.

    Attributes:
        rows: the rows to train on.
        ends: end of each row on the line in units of 2**-bits draws, int64 [rows].
        chunk: number of rows in a full row group.
        seed: seed of the first epoch's offset.
    """

    rows: Rows
    ends: np.ndarray = field(repr=False)
    chunk: int
    seed: int

    @classmethod
    def of(cls, rows: Rows, weights: np.ndarray, chunk: int, seed: int) -> "WeightedRows":
        """Return the rows with weights, float64 [rows], by position; they are not negative and not all zero."""
        line = np.cumsum(weights)
        ends = np.floor(line * (rows.count / line[-1]) * 2.0 ** _bits(rows.count)).astype(np.int64)
        # rounding may not move the end of the last rows that are drawn
        ends[line == line[-1]] = rows.count << _bits(rows.count)
        return cls(rows, ends, chunk, seed)

    @property
    def count(self) -> int:
        """Number of rows, and of the draws of an epoch."""
        return self.rows.count

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        """Return the row numbers, int64 [N], at places [N] of the endless epochs."""
        epochs, inside = np.divmod(places, self.count)
        result = np.empty(len(places), dtype=np.int64)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            result[here] = self.rows[self.positions_at(inside[here], epoch)]
        return result

    def positions_at(self, places: np.ndarray, epoch: int) -> np.ndarray:
        """Return the positions of rows, int64 [N], at places [N] of an epoch, in 0..count-1."""
        bits = _bits(self.count)
        start = key(self.seed, WEIGHTS) + epoch * int(GOLDEN * 2**bits)
        offset = start % (1 << bits)
        groups = np.searchsorted(self._heads, (places << bits) + offset, side="right") - 1
        # the first draw in each group, and in the group after it
        first, stop = (-((offset - self._heads[groups + after]) >> bits) for after in (0, 1))
        draws = first + _take_in_turn(places - first, stop - first, self.chunk)
        return np.searchsorted(self.ends, (draws << bits) + offset, side="right")

    @cached_property
    def _heads(self) -> np.ndarray:
        """Beginning of each row group on the line, and its end, int64 [groups + 1]."""
        return np.concatenate([[0], self.ends[self.chunk - 1 : -1 : self.chunk], self.ends[-1:]])


def _bits(rows: int) -> int:
    """Return the number of bits behind the point, with which the line of ``rows`` draws fits into 63 bits."""
    return min(32, 62 - rows.bit_length())


def _take_in_turn(numbers: np.ndarray, counts: np.ndarray, chunk: int) -> np.ndarray:
    """Return the draws of row groups, int64 [N], in the order of visits: visit v takes draws v, v + V, v + 2 V, ...

    Args:
        numbers: places in the row groups' draws, [N], each less than its count.
        counts: number of draws of each place's row group, [N].
        chunk: number of draws in a visit, about.
    """
    visits = np.maximum(1, counts // chunk)
    each, longer = np.divmod(counts, visits)
    border = longer * (each + 1)
    early = numbers < border
    visit, inside = np.divmod(np.where(early, numbers, numbers - border), np.where(early, each + 1, each))
    return inside * visits + np.where(early, visit, visit + longer)
