"""Split of a data set's rows into training rows and held-out rows, and the size of the shuffle window."""

import math
from collections.abc import Sequence

import numpy as np

from raysde.data.dataset.layout import Layout, Rows, choose_positions, hold_out_rows
from raysde.data.dataset.manifest import Manifest, Split
from raysde.data.dataset.selection import FilteredLayout, Selection, filtered_layouts

VALIDATION_ROWS = 2048
WINDOW_BYTES = 256 << 20
WINDOW_ROWS = 1 << 20
SMALL_BYTES = 192 << 20
"""Size of the data sets whose rows are all shuffled at once: each process that reads them keeps them in its cache."""
LANE_BYTES = (64 << 20, 1 << 30)
"""Least and largest size of the encoded images in the window of all lanes."""
CHUNK_GROUPS = 4
"""Least number of row groups with selected rows in a chunk of filtered rows."""
LANE_SHARE = 5, 16
"""Row groups in the window of all lanes, as a share of the rows of a global batch."""


def split_rows(
    manifest: Manifest, validation: int | None, seed: int, selection: Selection | None = None
) -> tuple[Rows, np.ndarray]:
    """Return the rows to train on, and the sorted row numbers of the held-out rows, int64 [N].

    Args:
        validation: number of held-out rows. They are drawn from the data set's validation split if it has one,
            otherwise from the training rows. None means up to 2,048 rows of the validation split.
        seed: seed of the random choice.
        selection: the rows that a filter selects, of both splits; None for all rows.

    Raises:
        ValueError: if no row would be left to train on.
    """

    def layouts(split: Split) -> tuple[Layout, ...]:
        return manifest.layouts(split) if selection is None else filtered_layouts(manifest, selection, split)

    if not manifest.rows_in("validation"):
        return hold_out_rows(layouts("train"), validation or 0, seed)
    rows, _ = hold_out_rows(layouts("train"), 0, seed)
    apart, _ = hold_out_rows(layouts("validation"), 0, seed)
    count = min(VALIDATION_ROWS if validation is None else validation, apart.count)
    return rows, np.sort(apart[choose_positions(apart, count, seed)])


def shuffle_window(manifest: Manifest, wanted: int | None) -> int:
    """Return the shuffle buffer in rows, in whole row groups: ``wanted``, or if None about 256 MB of encoded images."""
    group = manifest.row_group
    if wanted is None:
        each = max(1.0, manifest.bytes / max(1, manifest.rows))
        wanted = max(8 * group, int(min(WINDOW_ROWS, WINDOW_BYTES / each)))
    return max(1, wanted // group) * group


def lane_window(manifest: Manifest, rows: int, batch: int, microbatch: int, wanted: int | None) -> int:
    """Return the shuffle buffer of all lanes in rows, a multiple of ``batch``; or ``rows`` to shuffle all at once.

    The default takes 5 row groups for 16 rows of a global batch, at least 64 MB and at most 1 GB of encoded images. A
    global batch of 2,048 then mixes about 600 row groups, for microbatches from 16 to 64 rows. All rows are shuffled at
    once in data sets up to 192 MB, or if ``wanted`` is at least ``rows``.

    Args:
        rows: number of training rows.
        batch, microbatch: number of rows in a global batch and in a microbatch.
        wanted: the buffer in rows; None for the default.
    """
    size, group = manifest.bytes, manifest.row_group
    if rows <= wanted if wanted is not None else size <= SMALL_BYTES:
        return rows
    return _whole_window(rows, batch, microbatch, wanted or default_window(size, manifest.rows, group, batch), group)


def default_window(size: int, rows: int, group: int, batch: int) -> int:
    """Return the default of the shuffle buffer of all lanes in rows, before it is rounded.

    Args:
        size: bytes of the row groups that hold the rows.
        rows: number of rows to read.
        group: number of rows to read of a row group.
        batch: number of rows in a global batch.
    """
    least, most = (bound * rows // size for bound in LANE_BYTES)
    return max(least, min(most, batch * group * LANE_SHARE[0] // LANE_SHARE[1]))


def _whole_window(rows: int, batch: int, microbatch: int, wanted: int, chunk: int) -> int:
    """Return ``wanted`` rounded up to whole steps, and if possible to whole chunks for each lane."""
    steps = max(1, min(-(-wanted // batch), rows // (2 * batch)))
    unit = 1 << max(0, steps.bit_length() - 3)  # the steps have divisors, for blocks of a part of a segment
    whole = math.lcm(unit, chunk // math.gcd(chunk, microbatch))  # a lane then takes whole row groups
    steps = min((-(-steps // each) * each for each in (whole, unit)), key=lambda found: found > 1.5 * steps)
    return min(rows, steps * batch)


def filtered_window(manifest: Manifest, rows: Rows, batch: int, microbatch: int, wanted: int | None) -> tuple[int, int]:
    """Return the shuffle buffer of all lanes and the chunk of a plan over filtered rows, both in rows.

    Row groups have different numbers of selected rows, so that chunks of equal length cut some of them. A chunk holds
    the selected rows of about four row groups, so that one in four is read twice in an epoch. The buffer is that of
    :func:`lane_window`, with the selected rows of a row group for its rows.

    Args:
        rows: the filtered training rows.
        batch, microbatch, wanted: as for :func:`lane_window`.
    """
    size, selected, mean = measure_selected(manifest, rows)
    if rows.count <= wanted if wanted is not None else size <= SMALL_BYTES:
        return rows.count, mean
    wanted = wanted or default_window(size, selected, mean, batch)
    window = _whole_window(rows.count, batch, microbatch, wanted, 1)
    if window == rows.count:
        return window, mean
    lane = window // batch * microbatch
    chunks = max(1, lane // (CHUNK_GROUPS * mean))
    return window, lane // max(n for n in range(1, chunks + 1) if lane % n == 0)


def measure_selected(manifest: Manifest, rows: Rows) -> tuple[int, int, int]:
    """Return the bytes of the row groups with a selected row, the number of selected rows, and their mean in these.

    Args:
        rows: the filtered training rows; held-out rows count as selected.
    """
    touched = sum(layout.count_touched() for layout in rows.layouts if isinstance(layout, FilteredLayout))
    selected = sum(layout.count for layout in rows.layouts)
    size = min(manifest.bytes, manifest.bytes * touched * manifest.row_group // manifest.rows)
    return size, selected, max(1, round(selected / touched)) if touched else 1


def split_budget(sizes: Sequence[int], budget: int) -> list[int]:
    """Return the part of a budget for each size: small ones get their size, the others equal parts of the rest."""
    result, left = [0] * len(sizes), budget
    order = sorted(range(len(sizes)), key=lambda number: (sizes[number], number))
    for done, number in enumerate(order):
        result[number] = min(sizes[number], left // (len(sizes) - done))
        left -= result[number]
    return result
