"""Perceptual hashes and distances: the DCT of scipy, exact symmetries, and planted copies."""

import numpy as np
import pytest
from PIL import Image
from scipy.fft import dctn
from sklearn.datasets import load_digits

from raysde.images.perceptual import (
    CROPPED,
    FAINT,
    RADIUS,
    SIDE,
    THRESHOLD,
    hash_thumbnails,
    make_thumbnail,
    measure_distances,
    window_hashes,
)  # fmt: skip
from tests.support.copies import COPIES, cropped, draw_scene

RNG = np.random.default_rng(0)


def thumbnails_of(pictures):
    return np.stack([make_thumbnail(picture) for picture in pictures])


def scenes(count, first=0):
    return [draw_scene(seed) for seed in range(first, first + count)]


def test_bits_are_the_lowest_frequencies_of_the_dct():
    """Each bit is set where scipy's coefficient exceeds FAINT; coefficients close to it may round either way."""
    thumbnails = RNG.integers(0, 256, (200, SIDE, SIDE), dtype=np.uint8)
    spectrum = dctn(thumbnails.astype(float), axes=(1, 2), norm="ortho")
    order = sorted(
        ((i, j) for i in range(SIDE) for j in range(SIDE) if i or j), key=lambda f: (f[0] ** 2 + f[1] ** 2, f)
    )
    for bit, (row, column) in enumerate(order[:64]):
        clear = np.abs(spectrum[:, row, column] - FAINT) > 0.5
        assert clear.mean() > 0.9
        got = hash_thumbnails(thumbnails) >> np.uint64(bit) & np.uint64(1)
        assert np.array_equal(got[clear], spectrum[clear, row, column] > FAINT)


def test_brightness_does_not_change_a_hash():
    """A constant has no frequencies, exactly, and a picture without contrast has no bits."""
    thumbnails = RNG.integers(0, 200, (50, SIDE, SIDE), dtype=np.uint8)
    assert np.array_equal(hash_thumbnails(thumbnails), hash_thumbnails(thumbnails + np.uint8(55)))
    flat = 128 + RNG.integers(-1, 2, (50, SIDE, SIDE))
    assert not hash_thumbnails(flat.astype(np.uint8)).any()


def test_a_window_has_the_hash_of_the_crop():
    """The hash of each window differs in few bits from the hash of the picture that is cropped there."""
    pictures = scenes(30)
    shares = [(rows, columns) for rows in (0.0, 0.5, 1.0) for columns in (0.0, 0.5, 1.0)]
    for (rows, columns), hashes in zip(shares, window_hashes(thumbnails_of(pictures)), strict=True):
        crops = []
        for picture in pictures:
            left, top = columns * CROPPED * 64, rows * CROPPED * 64
            box = (left, top, left + 64 * (1 - CROPPED), top + 64 * (1 - CROPPED))
            crops.append(picture.resize((64, 64), Image.Resampling.BICUBIC, box=box))
        bits = np.bitwise_count(hashes ^ hash_thumbnails(thumbnails_of(crops)))
        assert np.median(bits) <= 3
        assert np.median(bits) < np.median(np.bitwise_count(hash_thumbnails(thumbnails_of(pictures)) ^ hashes))


def test_the_distance_is_zero_of_equal_pictures_and_their_contrast():
    """Gain and brightness are fitted. A negative gain is none, so that a negative is as far as a picture can be."""
    thumbnails = thumbnails_of(scenes(20)) // 2 + 60
    assert measure_distances(thumbnails, thumbnails).max() < 1e-9
    fainter = (0.5 * thumbnails.astype(float) + 40).round().astype(np.uint8)
    assert measure_distances(thumbnails, fainter).max() < 0.02
    assert measure_distances(thumbnails, 255 - thumbnails).min() > 0.3


def test_the_distance_does_not_depend_on_the_order_of_the_pair():
    first, second = thumbnails_of(scenes(40)), thumbnails_of(scenes(40, first=20))
    assert np.array_equal(measure_distances(first, second), measure_distances(second, first))


def test_a_limit_changes_no_decision():
    """Pairs that end early are those that end above the limit."""
    pictures = scenes(60)
    copies = thumbnails_of([cropped(each, 0.05, RNG) for each in pictures])
    first, second = np.concatenate([thumbnails_of(pictures)] * 2), np.concatenate([copies, np.roll(copies, 1, axis=0)])
    whole, early = measure_distances(first, second), measure_distances(first, second, THRESHOLD)
    assert np.array_equal(whole <= THRESHOLD, early <= THRESHOLD)
    assert np.array_equal(whole[whole <= THRESHOLD], early[whole <= THRESHOLD])


@pytest.mark.parametrize("kind", COPIES)
def test_copies_are_found(kind):
    """At least 95% of 200 copies are near in bits and in distance: the binomial standard error at 95% is 1.5%."""
    pictures = scenes(200)
    one, two = thumbnails_of(pictures), thumbnails_of([COPIES[kind](each, RNG) for each in pictures])
    wanted = hash_thumbnails(two)
    near = np.min([np.bitwise_count(each ^ wanted) for each in (hash_thumbnails(one), *window_hashes(one))], axis=0)
    assert ((near <= RADIUS) & (measure_distances(one, two) <= THRESHOLD)).mean() >= 0.95


def test_no_two_digits_are_copies():
    """The pairs of scikit-learn's 1,797 digits that are the closest by their pixels are above the threshold."""
    digits = load_digits().data / np.linalg.norm(load_digits().data, axis=1, keepdims=True)
    alike = np.triu(digits @ digits.T, 1)
    first, second = np.divmod(np.argsort(alike, axis=None)[-400:], len(digits))
    levels = (load_digits().images * 15.9).astype(np.uint8)
    thumbnails = thumbnails_of([Image.fromarray(each).resize((32, 32), Image.Resampling.BICUBIC) for each in levels])
    assert measure_distances(thumbnails[first], thumbnails[second]).min() > THRESHOLD
