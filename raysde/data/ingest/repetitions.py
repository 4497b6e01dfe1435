"""Values that several rows share, found with memory that does not grow with the number of rows.

Pairs of a 64-bit value and a row number are sorted into 256 files by the first byte of the value, and one file at a
time is counted. Fewer than ``HELD`` pairs stay in memory.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

HELD = 1 << 22
"""Number of pairs in memory at a time, 64 MB."""
MOST_NAMED = 1000
"""Number of groups, and of rows of a group, whose row numbers are returned."""
PAIR = np.dtype([("value", np.uint64), ("row", np.int64)])
Chunks = Callable[[], Iterator[np.ndarray]]
"""A function that reads some pairs in pieces, again each time."""


class Repetitions:
    """Collects pairs of value and row number, and finds the values that occur more than once.

    Args:
        folder: temporary folder for pairs beyond ``HELD``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.waiting, self.count, self.spilled = folder, [np.empty(0, PAIR)], 0, False

    def add(self, values: np.ndarray, rows: np.ndarray) -> None:
        """Add pairs: values uint64 [N], and row numbers int64 [N] that no other pair has."""
        pairs = np.empty(len(values), PAIR)
        pairs["value"], pairs["row"] = values, rows
        self.waiting.append(pairs)
        self.count += len(pairs)
        if self.count >= HELD:
            self._spill()

    def _spill(self) -> None:
        """Append the pairs in memory to the file of their values' first byte."""
        pairs = np.concatenate(self.waiting)
        first = (pairs["value"] >> np.uint64(56)).astype(np.int64)
        order = np.argsort(first, kind="stable")
        cuts = np.searchsorted(first[order], np.arange(257))
        for bucket in range(256):
            if cuts[bucket] < cuts[bucket + 1]:
                with open(self.folder / f"{bucket:02x}", "ab") as out:
                    pairs[order[cuts[bucket] : cuts[bucket + 1]]].tofile(out)
        self.waiting, self.count, self.spilled = [np.empty(0, PAIR)], 0, True

    def find(self) -> tuple[int, list[np.ndarray]]:
        """Return the number of rows that repeat another's value, and the sorted row numbers, int64 [N], of each group.

        The first ``MOST_NAMED`` groups are returned, by value, and the first ``MOST_NAMED`` rows of each.
        """
        groups: list[np.ndarray] = []
        repeated = 0
        for chunks in self._buckets():
            values, counts = _count_values(chunks)
            often = counts > 1
            repeated += int((counts[often] - 1).sum())
            chosen = values[often][: MOST_NAMED - len(groups)]
            if len(chosen):
                groups += _first_rows(chunks, chosen)
        return repeated, groups

    def _buckets(self) -> Iterator[Chunks]:
        """Yield the pairs of each bucket, by value."""
        if not self.spilled:
            pairs = np.concatenate(self.waiting)
            yield lambda: iter([pairs])
            return
        self._spill()
        for path in sorted(self.folder.iterdir()):
            yield lambda path=path: _read_pairs(path)  # type: ignore[misc]


def _read_pairs(path: Path) -> Iterator[np.ndarray]:
    with open(path, "rb") as source:
        while len(pairs := np.fromfile(source, PAIR, HELD)):
            yield pairs


def _count_values(chunks: Chunks) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct values, uint64 [N], sorted, and the number of pairs of each, int64 [N]."""
    values, counts = np.empty(0, np.uint64), np.empty(0, np.int64)
    for pairs in chunks():
        more, times = np.unique(pairs["value"], return_counts=True)
        values, place = np.unique(np.concatenate([values, more]), return_inverse=True)
        counts = np.bincount(place, np.concatenate([counts, times]), len(values)).astype(np.int64)
    return values, counts


def _first_rows(chunks: Chunks, chosen: np.ndarray) -> list[np.ndarray]:
    """Return the sorted row numbers of each of the ``chosen`` values, at most ``MOST_NAMED`` of each."""
    kept = np.empty(0, PAIR)
    for pairs in chunks():
        kept = np.concatenate([kept, pairs[np.isin(pairs["value"], chosen)]])
        kept = kept[np.lexsort((kept["row"], kept["value"]))]
        starts = np.searchsorted(kept["value"], kept["value"])
        kept = kept[np.arange(len(kept)) - starts < MOST_NAMED]
    cuts = np.searchsorted(kept["value"], chosen)
    return np.split(kept["row"], cuts[1:])
