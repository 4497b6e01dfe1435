"""The training rows of several data sets, indexed by the positions of a mixed plan, and their held-out rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raysde.data.dataset.layout import AlignedRows, Rows
from raysde.data.dataset.manifest import Manifest
from raysde.data.dataset.selection import Selection
from raysde.data.dataset.split import CHUNK_GROUPS, measure_selected, split_rows
from raysde.data.dataset.weighted_rows import WeightedRows
from raysde.data.dataset.weights import Weights, weigh_rows

SourceRows = Rows | WeightedRows
"""The rows of one data set: aligned with its row groups, filtered, or weighted."""


@dataclass(frozen=True)
class MixedRows:
    """The rows to train on of several data sets.

    Attributes:
        parts: the rows of each data set, by their places in its endless epochs.
        starts: first row number of each data set, with the rows of all numbered one after another.
    """

    parts: tuple[SourceRows, ...]
    starts: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of rows to train on."""
        return sum(part.count for part in self.parts)

    def __getitem__(self, positions: np.ndarray) -> np.ndarray:
        """Return the row numbers, int64 [N], at positions [N], see :mod:`raysde.data.batches.mixed_plan`."""
        places, sources = np.divmod(positions, len(self.parts))
        result = np.empty(len(positions), dtype=np.int64)
        for number in np.unique(sources).tolist():
            here, part = sources == number, self.parts[number]
            inside = places[here] if isinstance(part, WeightedRows) else places[here] % part.count
            result[here] = self.starts[number] + part[inside]
        return result

    def first_epoch(self, numbers: np.ndarray) -> np.ndarray:
        """Return the row numbers, int64 [N], of draws [N] in 0..count-1 of the first epochs of all data sets."""
        ends = np.cumsum([part.count for part in self.parts])
        sources = np.searchsorted(ends, numbers, side="right")
        places = numbers - (ends - [part.count for part in self.parts])[sources]
        return self[places * len(self.parts) + sources]


def split_source(
    manifest: Manifest,
    weights: Weights | None,
    validation: int | None,
    seed: int,
    selection: Selection | None = None,
) -> tuple[SourceRows, np.ndarray]:
    """Return the rows of a data set to train on, and its sorted held-out row numbers, int64 [N].

    Args:
        weights: weights of the rows; None to draw each once in an epoch.
        validation: see :func:`raysde.data.dataset.split.split_rows`.
        seed: seed of the held-out rows and of weighted draws.
        selection: the rows that a filter selects; None for all rows.

    Raises:
        ValueError: if no row is left to train on, there are buckets of image sizes, or the weights are wrong.
    """
    rows, held = split_rows(manifest, validation, seed, selection)
    if not rows.count:
        lacking = "has no rows to train on" if selection is None else "has no training row that its filter selects"
        raise ValueError(f"the data set at {manifest.path} {lacking}")
    if len(rows.layouts) > 1:
        raise ValueError(
            f"the shards at {manifest.path} hold buckets of several image sizes, which data.mix and data.weights do "
            "not take; ingest without --buckets"
        )
    chunk = manifest.row_group
    if selection is None:
        rows = AlignedRows(rows.layouts, rows.held)
    else:
        chunk = CHUNK_GROUPS * measure_selected(manifest, rows)[2]
    return rows if weights is None else weigh_rows(manifest, rows, weights, chunk, seed), held


def number_held_out(held: Sequence[np.ndarray], starts: Sequence[int]) -> np.ndarray:
    """Return the held-out rows of all data sets, int64 [N], given those of each and its first row number."""
    return np.concatenate([start + rows for start, rows in zip(starts, held, strict=True)])
