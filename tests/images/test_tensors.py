"""Conversion of grey levels to floats and back, grids and PNG files, for every level and every cell."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from raysde.images.tensors import make_grid, save_png, to_float, to_uint8
from raysde.inference.sample import Drawn
from tests.support.grids import enlarge, inked, locate_rows
from tests.support.pictures import open_image

LEVELS = torch.arange(256, dtype=torch.uint8)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 1.0), (-0.5, 2.0)])
def test_levels_are_spread_evenly_over_the_data_range(low, high):
    """Level k becomes low + k (high - low) / 255 up to float32 rounding, and converts back to k."""
    found = to_float(LEVELS, low, high)
    assert found.dtype == torch.float32
    expected = np.linspace(low, high, 256)
    np.testing.assert_allclose(found.double(), expected, rtol=0.0, atol=4 * 2.0**-24 * max(abs(low), abs(high)))
    assert torch.equal(to_uint8(found, low, high), LEVELS)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 1.0), (-0.5, 2.0)])
def test_values_go_to_the_nearest_level_and_stay_within_both_ends(low, high):
    """Values just below and above the middle of two levels are rounded, and values beyond the range are clipped."""
    middles = (np.arange(255) + 0.5) / 255.0
    for off, expected in ((-0.01 / 255.0, LEVELS[:-1]), (0.01 / 255.0, LEVELS[1:])):
        values = torch.from_numpy(low + (high - low) * (middles + off)).float()
        assert torch.equal(to_uint8(values, low, high), expected)
    beyond = torch.tensor([low - 100.0, low - 0.01, high + 0.01, high + 100.0, -math.inf, math.inf])
    assert to_uint8(beyond, low, high).tolist() == [0, 0, 255, 255, 0, 255]


def pictures(count: int, channels: int, height: int, width: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(count)
    return torch.randint(0, 255, (count, channels, height, width), generator=g, dtype=torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("count", "columns", "cell", "rows", "wide"), [(5, 2, 1, 3, 2), (5, None, 5, 2, 3), (3, 3, 8, 1, 3)]
)
def test_a_grid_has_each_image_in_its_cell_and_white_elsewhere(channels, count, columns, cell, rows, wide):
    """Images lie row by row, enlarged by the whole factor that reaches the cell; they are not square, to tell axes."""
    images = pictures(count, channels, 2, 3)
    scale = {1: 1, 5: 2, 8: 3}[cell]
    expected = np.full((rows * (2 * scale + 2) + 2, wide * (3 * scale + 2) + 2, channels), 255, np.uint8)
    for place in range(count):
        top, left = 2 + place // wide * (2 * scale + 2), 2 + place % wide * (3 * scale + 2)
        large = np.kron(images[place].permute(1, 2, 0).numpy(), np.ones((scale, scale, 1), np.uint8))
        expected[top : top + 2 * scale, left : left + 3 * scale] = large
    found = np.asarray(make_grid(images, columns, gap=2, cell=cell)).reshape(expected.shape)
    assert np.array_equal(found, expected)
    with pytest.raises(ValueError, match="at least one image"):
        make_grid(images[:0])


@pytest.mark.parametrize("channels", [1, 3])
def test_files_hold_their_images_in_the_order_given(tmp_path, channels):
    images = pictures(12, channels, 4, 5)
    names = [f"x{11 - number}" for number in range(12)]
    paths = save_png(images, tmp_path / "out", names)
    assert [path.name for path in paths] == [f"{name}.png" for name in names]
    for image, path in zip(images, paths, strict=True):
        assert torch.equal(open_image(path), image)
        assert np.array_equal(np.asarray(Image.open(path)).reshape(4, 5, channels), image.permute(1, 2, 0).numpy())
    with pytest.raises(ValueError, match="zip"):
        save_png(images, tmp_path / "out", names[:-1])


@pytest.mark.parametrize(("kinds", "columns"), [(1, 4), (3, 3), (12, 12)])
def test_drawn_images_are_saved_by_number_beside_their_grid(tmp_path, kinds, columns):
    """The grid has a column for each of several prompts, and is as square as possible for one prompt."""
    images = pictures(12, 3, 4, 5)
    paths = Drawn(images, [f"prompt {number % kinds}" for number in range(12)], 0, 1).save(tmp_path)
    assert [path.name for path in paths] == [*(f"image-{number:03d}.png" for number in range(12)), "grid.png"]
    assert all(torch.equal(open_image(path), image) for path, image in zip(paths, images, strict=False))
    above = locate_rows(Image.open(paths[-1]), enlarge(images, 20), columns)
    assert [any(inked(each, columns, 100)) for each in above] == [True] + [False] * (12 // columns - 1)
    assert kinds == 1 or all(inked(above[0], columns, 100))
