"""Pictures fitted to a size: proportions, boxes, padding and buckets."""

import numpy as np
import pytest
from PIL import Image

from raysde.images.geometry import (
    RATIOS,
    bucket_shapes,
    centred_box,
    fit_picture,
    nearest_bucket,
    placed_box,
    resize_box,
)
from tests.support.pictures import PICTURE

# --- geometry -----------------------------------------------------------------------------------------------------


def disc(width, height):
    """Return a white disc on black, half as wide as the short side."""
    y, x = np.mgrid[0:height, 0:width]
    inside = (x + 0.5 - width / 2) ** 2 + (y + 0.5 - height / 2) ** 2 < (min(width, height) / 4) ** 2
    return Image.fromarray((inside * 255).astype(np.uint8))


@pytest.mark.parametrize("size", [(120, 60), (60, 120), (90, 90), (200, 64)])
def test_proportions_are_kept(size):
    """A disc stays a disc, except under "stretch", which scales its sides by the factors of the picture's sides."""
    short, long = min(size), max(size)
    for fit, shape, scale in [
        ("crop", (48, 48), (48 / short, 48 / short)),
        ("pad", (48, 48), (48 / long, 48 / long)),
        ("short", (round(size[0] * 48 / short), round(size[1] * 48 / short)), (48 / short, 48 / short)),
        ("stretch", (48, 48), (48 / size[0], 48 / size[1])),
        ("keep", size, (1, 1)),
    ]:
        found = fit_picture(disc(*size), fit, (48, 48), 0)
        assert found.size == shape
        bright = np.asarray(found) > 127
        widths = bright.any(axis=0).sum(), bright.any(axis=1).sum()
        assert np.abs(np.array(widths) - np.array(scale) * short / 2).max() <= 2


def test_padding_is_beside_the_picture():
    found = np.asarray(fit_picture(Image.new("RGB", (30, 10)), "pad", (30, 30), 99))
    assert (found[10:20] == 0).all()
    assert (found[:10] == 99).all()
    assert (found[20:] == 99).all()


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch", "short", "keep"])
def test_a_picture_of_the_right_size_stays_the_same(fit):
    assert fit_picture(PICTURE, fit, (16, 16), 0) is PICTURE


def test_boxes_stay_inside_and_keep_their_proportions():
    """Boxes stay inside also after rounding, because Pillow refuses a box that begins at -1e-15."""
    rng = np.random.default_rng(0)
    for _ in range(5_000):
        size, shape = tuple(rng.integers(1, 400, 2).tolist()), tuple(rng.integers(1, 130, 2).tolist())
        for scale, x, y in [(1.0, 0.5, 0.5), (1.0, 1.0, 1.0), tuple(rng.random(3))]:
            left, top, right, bottom = placed_box(size, shape, scale, x, y)
            assert 0 <= left <= right <= size[0]
            assert 0 <= top <= bottom <= size[1]
            assert abs((right - left) * shape[0] - (bottom - top) * shape[1]) < 1e-8


@pytest.mark.parametrize(("size", "shape"), [((53, 100), (49, 49)), ((61, 49), (37, 111)), ((1, 300), (64, 64))])
def test_boxes_at_the_border_can_be_cut_out(size, shape):
    assert resize_box(Image.new("L", size), shape, centred_box(size, shape)).size == shape[::-1]


@pytest.mark.parametrize(("size", "multiple"), [(64, 8), (256, 64), (512, 64), (32, 4), (100, 16)])
def test_buckets(size, multiple):
    """Sides are multiples, areas equal the square's up to the rounding of sides, and no bucket is repeated."""
    shapes = bucket_shapes(size, multiple)
    assert len(set(shapes)) == len(shapes)
    for height, width in shapes:
        assert height % multiple == width % multiple == 0
        slack = multiple / 2 * (height + width + multiple)
        assert abs(height * width - size**2) <= slack
    assert all((width, height) in shapes for height, width in shapes)
    for ratio in RATIOS:
        sides = size / ratio**0.5, size * ratio**0.5
        assert any(np.abs(np.subtract(shape, sides)).max() <= multiple / 2 for shape in shapes)


def test_the_nearest_bucket_is_the_nearest():
    """The bucket minimises the difference of logarithmic aspect ratios over all buckets."""
    shapes = bucket_shapes(256, 32)
    logs = np.log([width / height for height, width in shapes])
    rng = np.random.default_rng(0)
    for width, height in rng.integers(1, 500, (500, 2)).tolist():
        distance = np.abs(logs - np.log(width / height))
        assert distance[shapes.index(nearest_bucket((width, height), shapes))] <= distance.min() + 1e-9
