"""Groups of images that are almost the same: resized, recompressed, slightly cropped, or mirrored copies.

Pairs of images are measured if their hashes, or the hash of one and of a window of the other, differ in at most
``RADIUS`` bits, see :mod:`raysde.images.perceptual`. Pairs within the threshold belong to one group, and so do images
that such pairs connect. The groups depend on the images and their order alone.

The search takes about 100 bytes of memory for each row, and 8 for each measured pair; thumbnails lie in a temporary
file. Its time grows with the square of the number of rows, divided by 2**16 to 2**22.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from raysde.data.dataset.hash_files import ImageHashes, open_hashes
from raysde.data.dataset.hash_search import find_pairs
from raysde.data.dataset.manifest import Manifest
from raysde.images.perceptual import RADIUS, SIDE, THRESHOLD, hash_thumbnails, measure_distances, window_hashes
from raysde.io.parallel import map_ahead

SAME = 8
"""Number of rows of one hash that are compared with rows of other hashes; the others are compared with these rows."""
AT_ONCE = 1 << 18
"""Number of thumbnails whose windows are hashed at a time."""
THREADS = 4
"""Number of shards whose hashes are read, or computed, at a time."""
MEASURED = 1 << 14
"""Number of pairs that are measured at a time."""
Confirm = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""A second measurement: returns True, bool [P], for each pair of row numbers int64 [P] that are copies."""


@dataclass(frozen=True)
class Criterion:
    """Criterion of near duplicates.

    Attributes:
        threshold: largest distance of two copies, see :func:`raysde.images.perceptual.measure_distances`.
        mirrored: True if an image and its mirror image are copies.

    Raises:
        ValueError: if the threshold is not in (0, 0.5].
    """

    threshold: float = THRESHOLD
    mirrored: bool = False

    def __post_init__(self) -> None:
        if not 0.0 < self.threshold <= 0.5:
            raise ValueError(
                f"the threshold of near duplicates must be above 0 and at most 0.5, got {self.threshold:g}; "
                f"{THRESHOLD:g} finds copies and tells most similar images apart"
            )


@dataclass(frozen=True)
class Duplicates:
    """Rows that repeat other rows.

    Attributes:
        rows: row numbers of all members of groups, int64 [M], sorted by group, the kept row of each group first.
        kept: for each of them the row of its group that is kept, int64 [M].
        distances: distance of each to the kept row, float64 [M]; it may be above the threshold where other rows of the
            group lie between the two.
        pairs: row numbers of the measured pairs within the threshold, int64 [P, 2], the closest first.
        lengths: their distances, float64 [P].
    """

    rows: np.ndarray
    kept: np.ndarray
    distances: np.ndarray
    pairs: np.ndarray = field(repr=False)
    lengths: np.ndarray = field(repr=False)

    @property
    def dropped(self) -> np.ndarray:
        """True for each member but the kept ones, bool [M]."""
        return self.rows != self.kept

    def groups(self) -> list[np.ndarray]:
        """Return the row numbers of each group, int64, the largest group first, then by the kept row."""
        found = np.split(self.rows, np.flatnonzero(np.diff(self.kept)) + 1) if len(self.rows) else []
        return sorted(found, key=lambda group: (-len(group), group[0]))


def find_duplicates(manifest: Manifest, criterion: Criterion, confirm: Confirm | None = None) -> Duplicates:
    """Return the near duplicates of a data set, by the stored hashes of its rows, or by its images if there are none.

    Args:
        confirm: a second measurement that pairs within the threshold must pass.

    Raises:
        ValueError: naming the shard that is missing or damaged.
    """
    hashes = map_ahead(lambda number: open_hashes(manifest, number), range(len(manifest.shards)), THREADS)
    with tempfile.TemporaryDirectory() as folder:
        return Gallery(hashes, Path(folder)).find(criterion, confirm)


class Gallery:
    """The perceptual hashes of many rows: hashes and sizes in memory, thumbnails in a temporary file.

    Args:
        blocks: hashes and thumbnails in the order of the rows.
        folder: temporary folder on this machine, for 256 bytes a row.
        priority: rank of a block for the choice of the kept row, by its number: a lower one wins over size.
    """

    def __init__(
        self, blocks: Iterable[ImageHashes], folder: Path, priority: Callable[[int], int] = lambda number: 0
    ) -> None:
        hashes, pixels, ranks = [np.empty(0, np.uint64)], [np.empty(0, np.int64)], [np.empty(0, np.int8)]
        file = folder / "thumbnails"
        with open(file, "wb") as out:
            for number, block in enumerate(blocks):
                out.write(np.ascontiguousarray(block.thumbnails).tobytes())
                hashes.append(block.hashes)
                pixels.append(block.pixels)
                ranks.append(np.full(len(block), priority(number), np.int8))
        self.hashes, self.pixels, self.ranks = np.concatenate(hashes), np.concatenate(pixels), np.concatenate(ranks)
        shape = (len(self.hashes), SIDE, SIDE)
        self.thumbnails = np.memmap(file, np.uint8, "r", shape=shape) if shape[0] else np.empty(shape, np.uint8)

    def find(self, criterion: Criterion, confirm: Confirm | None = None) -> Duplicates:
        """Return the near duplicates.

        Args:
            confirm: a second measurement that pairs within the threshold must pass.
        """
        search = _Search(self, criterion, confirm)
        for first, second, mirrored in self._candidates(criterion):
            search.add(first, second, mirrored)
        return search.finish()

    def _candidates(self, criterion: Criterion) -> Iterator[tuple[np.ndarray, np.ndarray, bool]]:
        """Yield pairs of row numbers, int64 [P] each, and True if the first row is to be mirrored."""
        distinct, place, counts = np.unique(self.hashes, return_inverse=True, return_counts=True)
        order = np.argsort(place, kind="stable")
        starts = np.cumsum(counts) - counts
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order)) - np.repeat(starts, counts)
        chosen = np.flatnonzero(rank < SAME)  # bounds the pairs of many images with one hash, such as blank ones
        for number in range(min(SAME, int(counts.max(initial=0)) - 1)):
            later = np.flatnonzero(rank > number)
            yield later, order[starts[place[later]] + number], False

        def expand(places: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for number in range(SAME):
                has = np.flatnonzero(counts[places] > number)
                if len(has):
                    yield has, order[starts[places[has]] + number]

        for one, two in find_pairs(distinct, distinct, RADIUS):
            apart = one != two
            for at, first in expand(one[apart]):
                for inside, second in expand(two[apart][at]):
                    yield first[inside], second, False
        for rows, hashes, mirrored in self._probes(chosen, criterion):
            for asked, found in find_pairs(hashes, distinct, RADIUS):
                for at, second in expand(found):
                    yield rows[asked[at]], second, mirrored

    def _probes(self, chosen: np.ndarray, criterion: Criterion) -> Iterator[tuple[np.ndarray, np.ndarray, bool]]:
        """Yield rows, int64 [N], with hashes of their windows or of their mirror images, uint64 [N]."""
        for start in range(0, len(chosen), AT_ONCE):
            rows = chosen[start : start + AT_ONCE]
            thumbnails = np.asarray(self.thumbnails[rows])
            for hashes in window_hashes(thumbnails):
                yield rows, hashes, False
            if criterion.mirrored:
                turned = thumbnails[:, :, ::-1]
                for hashes in (hash_thumbnails(turned), *window_hashes(turned)):
                    yield rows, hashes, True


class _Search:
    """Measures candidates, each pair once, and unites the rows of those within the threshold."""

    def __init__(self, gallery: Gallery, criterion: Criterion, confirm: Confirm | None) -> None:
        self.gallery, self.criterion, self.confirm = gallery, criterion, confirm
        self.parent = np.arange(len(gallery.hashes))
        self.tried = {False: np.empty(0, np.int64), True: np.empty(0, np.int64)}
        self.pairs: list[np.ndarray] = []
        self.lengths: list[np.ndarray] = []

    def add(self, first: np.ndarray, second: np.ndarray, mirrored: bool) -> None:
        """Measure pairs that were not measured before and whose rows are not in one group yet."""
        if mirrored:  # of two rows, either may be turned
            first, second = np.minimum(first, second), np.maximum(first, second)
        for start in range(0, len(first), MEASURED):
            one, two = first[start : start + MEASURED], second[start : start + MEASURED]
            apart = (one != two) & (self._roots(one) != self._roots(two))
            low, high = np.minimum(one[apart], two[apart]), np.maximum(one[apart], two[apart])
            codes = np.unique(low * len(self.parent) + high)
            tried = self.tried[mirrored]
            if len(tried):
                at = np.minimum(np.searchsorted(tried, codes), len(tried) - 1)
                codes = codes[tried[at] != codes]
            if len(codes):
                self._measure(codes, mirrored)

    def _measure(self, codes: np.ndarray, mirrored: bool) -> None:
        one, two = np.divmod(codes, len(self.parent))
        lengths = self._distances(one, two, mirrored)
        near = lengths <= self.criterion.threshold
        if self.confirm is not None and near.any():
            near[near] = self.confirm(one[near], two[near])
        self.tried[mirrored] = np.union1d(self.tried[mirrored], codes)
        self.pairs.append(np.stack([one[near], two[near]], axis=1))
        self.lengths.append(lengths[near])
        for left, right in self.pairs[-1].tolist():
            roots = sorted((self._root(left), self._root(right)))
            self.parent[roots[1]] = roots[0]

    def _distances(self, one: np.ndarray, two: np.ndarray, mirrored: bool, limit: float | None = None) -> np.ndarray:
        first, second = np.asarray(self.gallery.thumbnails[one]), np.asarray(self.gallery.thumbnails[two])
        first = first[:, :, ::-1] if mirrored else first
        return measure_distances(first, second, self.criterion.threshold if limit is None else limit)

    def _root(self, row: int) -> int:
        while (above := int(self.parent[row])) != row:
            self.parent[row] = self.parent[above]
            row = above
        return row

    def _roots(self, rows: np.ndarray) -> np.ndarray:
        found = self.parent[rows]
        while not np.array_equal(above := self.parent[found], found):
            found = above
        return found

    def finish(self) -> Duplicates:
        """Return the groups; the row of the largest source image is kept, the first of several."""
        gallery, roots = self.gallery, self._roots(np.arange(len(self.parent)))
        members = np.flatnonzero(np.bincount(roots, minlength=len(roots))[roots] > 1)
        order = np.lexsort((members, -gallery.pixels[members], gallery.ranks[members], roots[members]))
        rows = members[order]
        first = np.concatenate([[True], np.diff(roots[rows]) != 0])[: len(rows)]
        kept = rows[first][np.cumsum(first) - 1]
        distances = self._distances(rows, kept, False, np.inf)
        if self.criterion.mirrored:
            distances = np.minimum(distances, self._distances(rows, kept, True, np.inf))
        pairs = np.concatenate([np.empty((0, 2), np.int64), *self.pairs])
        lengths = np.concatenate([np.empty(0), *self.lengths])
        closest = np.lexsort((pairs[:, 1], pairs[:, 0], lengths))
        return Duplicates(rows, kept, distances, pairs[closest], lengths[closest])
