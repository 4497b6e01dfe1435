"""The order of chunks (row groups) in the endless epochs of a plan with lanes.

The places of all epochs are one line, 0, 1, 2, ..., and epoch e has the places from e * rows up to (e + 1) * rows. The
line is cut at the multiples of ``chunk``, also where an epoch begins in between. Each piece between two cuts that lies
within an epoch is one chunk, in random order. The places at the two ends of an epoch, less than a chunk each, take the
rows beyond the last full chunk, and if these are too few, the rows of one more chunk. So no window of whole pieces cuts
a chunk, except at the border of two epochs.
"""

import numpy as np

from raysde.data.dataset.permutation import permute_numbers
from raysde.rng import CHUNKS, key


def chunk_positions(places: np.ndarray, epoch: int, rows: int, chunk: int, seed: int) -> np.ndarray:
    """Return the row positions, int64 [N], at ``places`` of an epoch whose chunks are shuffled as wholes.

    Args:
        places: int64 [N], in 0..rows-1, counted from the beginning of the epoch.
        epoch: number of the epoch, which determines its first cut.
        rows: number of rows in each epoch.
        chunk: number of neighbouring rows in a chunk.
        seed: the key of this epoch.
    """
    full, rest = divmod(rows, chunk)
    lead = min(-epoch * rows % chunk, rows)  # places before the first cut
    whole = (rows - lead) // chunk
    assert whole in (full, full - 1)
    inside = (places >= lead) & (places < lead + whole * chunk)
    result = np.empty_like(places)
    number, offset = np.divmod(places[inside] - lead, chunk)
    if full:
        result[inside] = permute_numbers(number, full, key(seed, CHUNKS, 1)) * chunk + offset
    ends = places[~inside]
    ends = permute_numbers(
        np.where(ends < lead, ends, ends - whole * chunk), max(1, rows - whole * chunk), key(seed, CHUNKS, 0)
    )
    result[~inside] = full * chunk + ends
    if whole < full:  # the last chunk of the permutation fills the rest of both ends
        left = int(permute_numbers(np.array([full - 1]), full, key(seed, CHUNKS, 1))[0])
        result[~inside] = np.where(ends < rest, full * chunk + ends, left * chunk + ends - rest)
    return result
