"""Perceptual hashes of images, and the distance of two images that may be copies of each other.

An image is looked at as a thumbnail: grey, ``SIDE`` x ``SIDE`` pixels. Its hash has the signs of the 64 lowest
frequencies of the thumbnail's type-II DCT without the mean, by the distance of the frequency from zero; this is
pHash (Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010) but for its comparison with the
median. The cosines are rounded to whole numbers, so that every processor computes the same bits.

Resizing and recompression change a few bits, cropping many: a crop of 4% changes 16 of 64 (95% quantile on
Fashion-MNIST). Hashes of a copy are therefore compared with those of windows of the other image, see
:func:`window_hashes`, and 95% of such copies are within ``RADIUS`` bits. Many distinct images are, too: the nearest
other image of 39% of the 10,000 test images of Fashion-MNIST. :func:`measure_distances` therefore decides.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from PIL import Image

SIDE = 16
"""Height and width of a thumbnail in pixels."""
THRESHOLD = 0.03
"""Largest distance of two copies. On 96 x 96 patches of photographs it finds at least 98% of the copies that are halved
in size, compressed to JPEG of quality 50, or cropped by 5%. On 28 x 28 images of Fashion-MNIST it finds 98% of those
compressed and 84% of those cropped by 5%; 7 of the 10,000 test images count as copies of others."""
RADIUS = 7
"""Largest number of different bits of two hashes whose images are compared."""
CROPPED = 0.045
"""Share of the height and width that the windows leave out."""
WHOLE = 1 << 12
"""Factor of the cosines before they are rounded."""
FAINT = 8.0
"""Largest coefficient of an orthonormal DCT of grey levels that counts as zero, so that noise does not set the bits of
an image without contrast."""
FINEST = 6.0
"""Standard deviation, in frequencies of the DCT, of the low-pass filter before two thumbnails are compared."""
FLOOR = 24.0
"""Contrast in grey levels that is added, in squares, to that of the images: rounding and compression change an image of
little contrast as much as any other."""
STEPS = 5
LARGEST = 0.08
"""Number of Gauss-Newton steps, and largest relative displacement and change of scale, of the alignment."""
HOPEFUL = (np.inf, 15.0, 4.0, 2.0, 1.5, 1.2)
"""Largest distance before each step, as a multiple of the limit, of pairs that may still come below it."""


def make_thumbnail(picture: Image.Image) -> np.ndarray:
    """Return the thumbnail of a picture, uint8 [16, 16], by Lanczos resampling of its grey levels."""
    # a reduction by whole factors first makes large pictures ten times as fast
    small = picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return np.asarray(small.convert("L"))


def hash_thumbnails(thumbnails: np.ndarray) -> np.ndarray:
    """Return the hashes, uint64 [N], of thumbnails, uint8 [N, 16, 16]."""
    return _hash_window(thumbnails, _cosines((0.0, 0.0)), _cosines((0.0, 0.0)))


def window_hashes(thumbnails: np.ndarray) -> Iterator[np.ndarray]:
    """Yield hashes, uint64 [N], of nine windows of thumbnails, uint8 [N, 16, 16].

    The windows leave out ``CROPPED`` of height and width: at the borders, in the middle, and at each combination.
    """
    places = [(CROPPED, share * CROPPED) for share in (0.0, 0.5, 1.0)]
    for rows in places:
        for columns in places:
            yield _hash_window(thumbnails, _cosines(rows), _cosines(columns))


def _frequencies() -> np.ndarray:
    """Return the vertical and horizontal frequencies of the bits, int64 [64, 2], the lowest first."""
    every = [(row, column) for row in range(SIDE) for column in range(SIDE) if row or column]
    return np.array(sorted(every, key=lambda each: (each[0] ** 2 + each[1] ** 2, each))[:64])


FREQUENCIES = _frequencies()


@lru_cache
def _cosines(window: tuple[float, float]) -> np.ndarray:
    """Return the map from pixels along one axis to frequencies of a window, whole numbers, float64 [F, 16].

    Args:
        window: relative length that the window leaves out, and its relative beginning.
    """
    left_out, start = window
    positions = (np.arange(SIDE) + 0.5) * (1.0 - left_out) + start * SIDE - 0.5
    seen = _basis(positions)[0] @ _basis(np.arange(SIDE))[0].T
    wave = _basis(np.arange(SIDE))[0][:, : FREQUENCIES.max() + 1].T
    return np.asarray(np.round(WHOLE * (wave @ seen if left_out else wave)))


def _hash_window(thumbnails: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    # sums of whole numbers below 2**53 are exact in any order
    found = np.empty(len(thumbnails), np.uint64)
    for start in range(0, len(thumbnails), 8192):
        part = rows @ thumbnails[start : start + 8192].astype(np.float64) @ columns.T
        bits = part[:, FREQUENCIES[:, 0], FREQUENCIES[:, 1]] > FAINT * WHOLE**2
        found[start : start + 8192] = np.packbits(np.ascontiguousarray(bits), axis=1, bitorder="little").view("<u8")[
            :, 0
        ]
    return found


def _basis(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the orthonormal cosines of the DCT at pixel positions [...], and their derivatives, float64 [..., 16]."""
    frequencies = np.arange(SIDE)
    scale = np.where(frequencies > 0, np.sqrt(2.0 / SIDE), np.sqrt(1.0 / SIDE))
    phase = np.pi / SIDE * (np.asarray(positions, dtype=np.float64)[..., None] + 0.5) * frequencies
    return np.asarray(scale * np.cos(phase)), np.asarray(-np.pi / SIDE * frequencies * scale * np.sin(phase))


def _to_frequencies(levels: np.ndarray) -> np.ndarray:
    """Return the orthonormal type-II DCT of levels [N, 16, 16], float64."""
    waves, _ = _basis(np.arange(SIDE))
    return np.asarray(waves.T @ levels.astype(np.float64) @ waves)


def _smooth(thumbnails: np.ndarray) -> np.ndarray:
    """Return thumbnails after the low-pass filter, float64 [N, 16, 16]."""
    squares = np.arange(SIDE)[:, None] ** 2 + np.arange(SIDE)[None] ** 2
    waves, _ = _basis(np.arange(SIDE))
    return np.asarray(waves @ (_to_frequencies(thumbnails) * np.exp(-0.5 * squares / FINEST**2)) @ waves.T)


def measure_distances(first: np.ndarray, second: np.ndarray, limit: float = np.inf) -> np.ndarray:
    """Return the distances of pairs of thumbnails, uint8 [N, 16, 16] each, float64 [N].

    The distance is the root mean square of the differences of their grey levels, divided by the root of the second's
    variance plus ``FLOOR`` squared; it is 0 for equal thumbnails. The first is shifted, scaled along both axes, and
    changed in brightness and contrast to fit the second best (Lucas and Kanade 1981). The pair is also measured the
    other way round, and the smaller distance counts. A border of one pixel, which resampling changes, is left out.

    Args:
        limit: distance above which pairs need not be measured to the end; they may get any larger distance.
    """
    found = np.empty(len(first))
    for start in range(0, len(first), 512):
        small, large = _smooth(first[start : start + 512]), _smooth(second[start : start + 512])
        found[start : start + 512] = np.minimum(_align(small, large, limit), _align(large, small, limit))
    return found


def _align(first: np.ndarray, second: np.ndarray, limit: float) -> np.ndarray:
    """Return the distances of pairs [N, 16, 16] after the best transformation of the first."""
    spectrum = _to_frequencies(first)
    change = np.zeros((len(first), 4))  # vertical scale and shift, horizontal scale and shift
    best = np.full(len(first), np.inf)
    limits = np.array([LARGEST, LARGEST * SIDE / 2] * 2)
    for step in range(STEPS + 1):
        near = np.flatnonzero(best <= limit * HOPEFUL[step]) if step else np.arange(len(first))
        design = _linearise(spectrum[near], change[near])
        wanted = second[near, 1:-1, 1:-1].reshape(len(near), (SIDE - 2) ** 2, 1)
        best[near] = np.minimum(best[near], _residuals(design[..., 4:], wanted))
        turned = design.transpose(0, 2, 1)
        normal = turned @ design
        ridge = 1e-6 * np.trace(normal, axis1=1, axis2=2) / 6 + 1e-3
        solved = np.linalg.solve(normal + ridge[:, None, None] * np.eye(6), turned @ wanted)[..., 0]
        change[near] = np.clip(change[near] + solved[:, :4] / np.maximum(solved[:, 4:5], 0.2), -limits, limits)
    return best


def _linearise(spectrum: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Return the derivatives of the transformed inner pixels by ``change`` [N, 4], their levels and ones, [N, P, 6]."""
    place = np.arange(SIDE) - (SIDE - 1) / 2
    rows, d_rows = _basis(place * (1.0 + change[:, :1]) + change[:, 1:2] + (SIDE - 1) / 2)
    columns, d_columns = _basis(place * (1.0 + change[:, 2:3]) + change[:, 3:] + (SIDE - 1) / 2)
    down, across = rows @ spectrum, columns.transpose(0, 2, 1)
    moved = down @ across
    by_row, by_column = d_rows @ spectrum @ across, down @ d_columns.transpose(0, 2, 1)
    slopes = [by_row * place[:, None], by_row, by_column * place, by_column, moved, np.ones_like(moved)]
    return np.stack(slopes, axis=-1)[:, 1:-1, 1:-1].reshape(len(change), (SIDE - 2) ** 2, 6)


def _residuals(levels: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the distances of levels [N, P, 2], the second of them 1, and wanted [N, P, 1], fitted with a gain >= 0."""
    one = levels[..., 0] - levels[..., 0].mean(axis=1, keepdims=True)
    two = wanted[..., 0] - wanted[..., 0].mean(axis=1, keepdims=True)
    gain = np.maximum((one * two).sum(axis=1), 0.0) / np.maximum((one**2).sum(axis=1), 1e-9)
    rest = ((two - gain[:, None] * one) ** 2).mean(axis=1)
    return np.asarray(np.sqrt(rest / ((two**2).mean(axis=1) + FLOOR**2)))
