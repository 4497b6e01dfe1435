"""Which rows of a data set a run trains on, and which it keeps for validation."""

import numpy as np

from raysde.data.dataset.layout import Rows, choose_positions, hold_out_rows
from raysde.data.dataset.manifest import Manifest

VALIDATION_ROWS = 2048
WINDOW_BYTES = 256 << 20
WINDOW_ROWS = 1 << 20


def split_rows(manifest: Manifest, validation: int | None, seed: int) -> tuple[Rows, np.ndarray]:
    """Rows to train on, and the sorted numbers of those held out.

    Args:
        validation: how many are held out. They come from the data set's own validation split if it has one, otherwise
            they are taken from the others at random. None is up to 2,048 of the data set's own split.

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
    """Rows that are shuffled together, whole row groups: what was asked for, or about 256 MB of encoded images."""
    group = manifest.row_group
    if wanted is None:
        each = max(1.0, sum(shard.bytes for shard in manifest.shards) / max(1, manifest.rows))
        wanted = max(8 * group, int(min(WINDOW_ROWS, WINDOW_BYTES / each)))
    return max(1, wanted // group) * group
