"""Split of a data set's rows into training rows and held-out rows, and the size of the shuffle window."""

import numpy as np

from raysde.data.dataset.layout import Rows, choose_positions, hold_out_rows
from raysde.data.dataset.manifest import Manifest

VALIDATION_ROWS = 2048
WINDOW_BYTES = 256 << 20
WINDOW_ROWS = 1 << 20


def split_rows(manifest: Manifest, validation: int | None, seed: int) -> tuple[Rows, np.ndarray]:
    """Return the rows to train on, and the sorted row numbers of the held-out rows, int64.

    Args:
        validation: number of held-out rows. They are drawn from the data set's validation split if it has one,
            otherwise from the training rows. None means up to 2,048 rows of the validation split.
        seed: seed of the random choice.

    Raises:
        ValueError: if no row would be left to train on.
    """
    own = manifest.rows_in("validation")
    if not own:
        return hold_out_rows(manifest.layouts("train"), validation or 0, seed)
    rows, _ = hold_out_rows(manifest.layouts("train"), 0, seed)
    apart, _ = hold_out_rows(manifest.layouts("validation"), 0, seed)
    count = min(VALIDATION_ROWS if validation is None else validation, own)
    return rows, np.sort(apart[choose_positions(apart, count, seed)])


def shuffle_window(manifest: Manifest, wanted: int | None) -> int:
    """Return the shuffle buffer in rows, in whole row groups: ``wanted``, or if None about 256 MB of encoded images."""
    group = manifest.row_group
    if wanted is None:
        each = max(1.0, manifest.bytes / max(1, manifest.rows))
        wanted = max(8 * group, int(min(WINDOW_ROWS, WINDOW_BYTES / each)))
    return max(1, wanted // group) * group
