"""The batch plan of several sources, or of one whose rows are weighted: exact shares, and lanes for each source.

:mod:`raysde.data.batches.shares` names the source of each row of the run. Each source has endless epochs of its own,
shuffled like those of :class:`raysde.data.batches.plan.Plan`: all rows at once if the source is small, else row group
by row group. In a segment, each lane takes the next rows of each large source, as many as its microbatches have of it.
It shuffles them among those microbatches. Any step is computed without the steps before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raysde.data.batches.chunks import chunk_positions
from raysde.data.batches.plan import MIXED, BatchPlan
from raysde.data.batches.shares import SourceOrder, mix_sources
from raysde.data.dataset.manifest import Manifest
from raysde.data.dataset.permutation import permute_numbers
from raysde.data.dataset.selection import FilteredLayout
from raysde.data.dataset.source_rows import SourceRows
from raysde.data.dataset.split import (
    CHUNK_GROUPS,
    LANE_BYTES,
    LANE_SHARE,
    SMALL_BYTES,
    measure_selected,
    split_budget,
)
from raysde.data.dataset.weighted_rows import WeightedRows
from raysde.rng import LANES, ORDER, key


@dataclass(frozen=True, kw_only=True)
class SourcePlan:
    """The rows of one source.

    Attributes:
        rows: number of training rows, which is also the number of draws in an epoch.
        chunk: number of rows in a full row group.
        laned: True if each lane reads row groups of its own, False if all rows are shuffled at once.
    """

    rows: int
    chunk: int
    laned: bool


@dataclass(frozen=True, kw_only=True)
class MixedPlan(BatchPlan):
    """A deterministic sequence of global batches from several sources.

    Position p stands for the place p // k of source p % k of k. Places count on through the epochs of a source.

    Attributes:
        rows: number of rows of all sources, an epoch in the lengths of runs.
        sources: the sources.
        shares: whole numbers in proportion to the sources' weights.
        steps: number of steps of a segment.
    """

    sources: tuple[SourcePlan, ...]
    shares: tuple[int, ...]
    steps: int = 1
    order: int = MIXED

    def __post_init__(self) -> None:
        super().__post_init__()
        assert self.rows == sum(source.rows for source in self.sources)
        assert len(self.sources) == len(self.shares)
        assert self.order == MIXED

    @property
    def has_lanes(self) -> bool:
        return any(source.laned for source in self.sources)

    @property
    def segment(self) -> int:
        return self.steps if self.has_lanes else 1

    @property
    def mixed(self) -> SourceOrder:
        """The source of each row of the run."""
        return mix_sources(self.shares)

    def rows_of(self, step: int, index: int) -> np.ndarray:
        assert 0 <= index < self.microbatches
        first = step * self.batch + index * self.microbatch
        sources = self.mixed.sources_of(np.arange(first, first + self.microbatch, dtype=np.int64))
        result = np.empty(self.microbatch, dtype=np.int64)
        for number in np.unique(sources).tolist():
            here = sources == number
            places = self._places(number, step, index, int(here.sum()))
            result[here] = self._endless(places, number) * len(self.sources) + number
        return result

    def _places(self, number: int, step: int, index: int, count: int) -> np.ndarray:
        """Return the places, int64 [count], of a microbatch's rows in the sequence of source ``number``.

        The lanes of a segment share the source's next rows, lane after lane.
        """
        if not self.sources[number].laned:
            first = np.array([step * self.batch + index * self.microbatch])
            return self.mixed.count_before(number, first) + np.arange(count, dtype=np.int64)
        segment, inside = divmod(step, self.segment)
        steps = (segment * self.segment + np.arange(self.segment, dtype=np.int64)) * self.batch
        before, begin, end = (
            self.mixed.count_before(number, steps + rows * self.microbatch) for rows in (0, index, index + 1)
        )
        each = end - begin
        first = before[0] + int((begin - before).sum())
        places = int(each[:inside].sum()) + np.arange(count, dtype=np.int64)
        lane = key(self.seed, LANES, segment * self.microbatches + index, number)
        return first + permute_numbers(places, int(each.sum()), lane)

    def _endless(self, places: np.ndarray, number: int) -> np.ndarray:
        """Return places of a source, int64 [N], after the shuffle of the rows of each of its epochs."""
        source = self.sources[number]
        epochs, inside = np.divmod(places, source.rows)
        result = np.empty(len(places), dtype=np.int64)
        for epoch in np.unique(epochs).tolist():
            here, seed = epochs == epoch, key(self.seed, ORDER, epoch, number)
            if source.laned:
                shuffled = chunk_positions(inside[here], epoch, source.rows, source.chunk, seed)
            else:
                shuffled = permute_numbers(inside[here], source.rows, seed)
            result[here] = epoch * source.rows + shuffled
        return result


@dataclass(frozen=True)
class SourceSize:
    """The size of a source.

    Attributes:
        rows: number of training rows.
        row_bytes: mean size of a row in bytes.
        group: number of rows in a full row group, or the mean number of selected rows in those with any.
        groups: number of row groups that move together.
    """

    rows: int
    row_bytes: float
    group: int
    groups: int = 1

    @classmethod
    def of(cls, manifest: Manifest, rows: SourceRows) -> "SourceSize":
        """Return the size of the rows of a data set to train on."""
        own = rows.rows if isinstance(rows, WeightedRows) else rows
        if not any(isinstance(layout, FilteredLayout) for layout in own.layouts):
            return cls(rows.count, manifest.bytes / manifest.rows, manifest.row_group)
        size, selected, mean = measure_selected(manifest, own)
        return cls(rows.count, size / selected, mean, CHUNK_GROUPS)

    @property
    def bytes(self) -> float:
        """Size of all training rows."""
        return self.rows * self.row_bytes


def plan_sources(
    sizes: Sequence[SourceSize], shares: tuple[int, ...], batch: int, microbatch: int, seed: int, wanted: int | None
) -> MixedPlan:
    """Return the plan of several sources.

    Sources that fit into ``SMALL_BYTES`` together are shuffled at once; each process keeps them in its cache. The
    segment has as many row groups for a row of a global batch as that of one source, see
    :func:`raysde.data.dataset.split.lane_window`.

    Args:
        shares: whole numbers in proportion to the sources' weights.
        batch, microbatch: number of rows in a global batch and in a microbatch.
        wanted: shuffle buffer in rows for a global batch; None for the default.

    Raises:
        ValueError: if there are no rows, or ``batch`` is no multiple of ``microbatch``.
    """
    parts = [share / sum(shares) for share in shares]
    if wanted is None:
        kept = split_budget([int(size.bytes) for size in sizes], SMALL_BYTES)
        laned = [room < int(size.bytes) for size, room in zip(sizes, kept, strict=True)]
        row = sum(part * size.row_bytes for part, size in zip(parts, sizes, strict=True))
        groups = sum(part / size.group for part, size in zip(parts, sizes, strict=True))
        least, most = (bound / max(row, 1.0) for bound in LANE_BYTES)
        window = max(least, min(most, batch / groups * LANE_SHARE[0] / LANE_SHARE[1]))
    else:
        laned = [size.rows > wanted * part for part, size in zip(parts, sizes, strict=True)]
        window = wanted
    steps = max(1, -(-int(window) // batch))
    unit = 1 << max(0, steps.bit_length() - 3)  # the steps have divisors, for blocks of a part of a segment
    sources = tuple(
        SourcePlan(rows=size.rows, chunk=size.group * size.groups, laned=lane)
        for size, lane in zip(sizes, laned, strict=True)
    )
    return MixedPlan(
        rows=sum(size.rows for size in sizes), batch=batch, microbatch=microbatch, seed=seed, sources=sources,
        shares=shares, steps=-(-steps // unit) * unit,
    )  # fmt: skip
