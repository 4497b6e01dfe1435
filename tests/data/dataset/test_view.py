"""Crops compared with closed forms: the box for a draw, and the grey levels that it shows of a ramp."""

import numpy as np
import pytest
from PIL import Image

from raysde.data.dataset.view import (
    CAPTION,
    LEFT,
    SCALE,
    STILL,
    TOP,
    View,
    draw_uniforms,
)
from raysde.images.geometry import fit_picture


def test_a_box_is_where_its_draw_says():
    """A box's area is linear in the scale's draw and its place in the draws of left and top, each in its own column."""
    for number, draw in enumerate(draw_uniforms(0, 0, 0, 50)):
        low, high = ((0.5, 1.0), (0.2, 0.7))[number % 2]
        side = 20.0 * np.sqrt(low**2 + draw[SCALE] * (high**2 - low**2))
        left, top = draw[LEFT] * (40.0 - 2.0 * side), draw[TOP] * (20.0 - side)
        box = View((8, 16), "random", (low, high)).box((40, 20), (8, 16), draw)
        assert box == pytest.approx((left, top, left + 2.0 * side, top + side), abs=1e-9)
        still = View((8, 16), "center", (low, high)).box((40, 20), (8, 16), draw)
        middle = (20.0 - side, 10.0 - side / 2.0, 20.0 + side, 10.0 + side / 2.0)
        assert still == pytest.approx(middle, abs=1e-9)
    assert len({CAPTION, SCALE, LEFT, TOP}) == 4
    largest = View((8, 16), "random", (0.5, 1.0)).box((50, 20), (8, 16), STILL)
    assert largest == pytest.approx((5.0, 0.0, 45.0, 20.0))


def test_draws_of_a_row_depend_on_its_place_alone_and_on_no_other():
    """The four columns are uncorrelated within a row and with the next row, up to four standard errors 1 / sqrt(n)."""
    found = draw_uniforms(3, 5, 7, 4000)
    assert np.array_equal(draw_uniforms(3, 5, 7, 9), found[:9])
    both = np.concatenate([found[:-1], found[1:]], axis=1)
    apart = np.abs(np.corrcoef(both.T) - np.eye(8))
    assert apart.max() < 4.0 / np.sqrt(len(both))
    others = [draw_uniforms(*where, 4000) for where in ((4, 5, 7), (3, 6, 7), (3, 5, 8), (3, 7, 5), (5, 3, 7))]
    for other in others:
        assert np.abs(np.corrcoef(found.T, other.T)[:4, 4:]).max() < 4.0 / np.sqrt(4000)


def ramp(height: int, width: int, axis: int) -> np.ndarray:
    """Return grey that rises by two levels a pixel along an axis, uint8 [H, W, 1]."""
    along = 2 * np.arange((height, width)[axis])
    return np.broadcast_to(along[:, None] if axis == 0 else along[None, :], (height, width)).astype(np.uint8)[..., None]


def shown(start: float, length: float, count: int) -> np.ndarray:
    """Return the ramp's levels at the middles of ``count`` equal parts of an interval, two levels a pixel."""
    return 2.0 * (start + (np.arange(count) + 0.5) * length / count - 0.5)


@pytest.mark.parametrize("axis", [0, 1])
def test_what_is_shown_is_what_lies_in_the_box(axis):
    """A symmetric filter keeps a ramp up to rounding, except at the picture's border, where it is cut."""
    image, inside = ramp(60, 100, axis), 0
    for draw in draw_uniforms(1, 0, 0, 40):
        view = View((8, 10), "random", (0.3, 0.6))
        box = view.box((100, 60), (8, 10), draw)
        found = view.show(image, (8, 10), draw)[..., 0].astype(float)
        start, end = box[1 - axis], box[3 - axis]
        expected = shown(start, end - start, (8, 10)[axis])
        reach = 3.0 * (end - start) / (8, 10)[axis]
        if start < reach or end > (60, 100)[axis] - reach:
            continue
        inside += 1
        wide = np.broadcast_to(expected[:, None] if axis == 0 else expected[None, :], (8, 10))
        assert np.abs(found - wide).max() <= 1.0
    assert inside > 5


@pytest.mark.parametrize(("size", "axis"), [((60, 100), 1), ((61, 100), 1), ((100, 60), 0)])
def test_a_square_is_cut_from_the_middle(size, axis):
    found = np.asarray(fit_picture(Image.fromarray(ramp(*size, axis)[..., 0]), "crop", (12, 12), 0)).astype(float)
    short = min(size)
    expected = shown((size[axis] - short) / 2.0, short, 12)
    assert np.abs((found if axis else found.T) - expected[None, :])[:, 2:-2].max() <= 1.0


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_stay_apart(channels):
    """Any crop of a constant colour has that colour."""
    image = np.empty((20, 30, channels), np.uint8)
    image[...] = np.array([10, 120, 250])[:channels]
    found = View((6, 8), "random", (0.5, 1.0)).show(image, (6, 8), draw_uniforms(0, 0, 0, 1)[0])
    assert found.shape == (6, 8, channels)
    assert (found == image[0, 0]).all()
