"""Sampled images in files."""

import numpy as np
import pytest
import torch
from PIL import Image

from raysde.inference.samples import Drawn


@pytest.mark.parametrize("data_range", [(0.0, 1.0), (-1.0, 1.0), (-0.5, 2.0)])
def test_floats_are_saved_in_the_range_of_their_model(tmp_path, data_range):
    """Every float level is saved as its grey level, and values beyond black and white are clipped."""
    low, high = data_range
    levels = torch.arange(256).reshape(1, 1, 16, 16)
    drawn = Drawn(low + (high - low) * levels / 255, None, 0, 1, data_range)
    path = drawn.save(tmp_path / "levels")[0]
    assert np.array_equal(np.asarray(Image.open(path)), levels[0, 0].numpy())
    beyond = Drawn(torch.tensor([low - 1.0, high + 1.0]).reshape(2, 1, 1, 1), None, 0, 1, data_range)
    assert [int(np.asarray(Image.open(path)).max()) for path in beyond.save(tmp_path / "beyond")[:2]] == [0, 255]
