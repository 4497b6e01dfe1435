"""CMMD against numpy in float64, closed forms and repeated draws."""

import math

import numpy as np
import pytest
import torch

from raysde.evaluation.metrics.cmmd import clip_discrepancy
from raysde.evaluation.metrics.kernel import BLOCK


def embeddings(count: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(seed)) + shift


def kernel(first, second):
    """The kernel as the paper writes it: squared distances of unit vectors, by differences."""
    first, second = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (first, second))
    return np.exp(-((first[:, None] - second[None]) ** 2).sum(axis=2) / (2.0 * 10.0**2))


@pytest.mark.parametrize(("drawn", "real"), [(40, 60), (7, 3), (BLOCK + 5, 30)])
def test_the_value_is_that_of_numpy(drawn, real):
    """Also the paper's program, which counts each image with itself, is above it by what the module says."""
    x, y = embeddings(drawn, 0), embeddings(real, 1, 0.4)
    a, b = x.double().numpy(), y.double().numpy()
    xx, yy, xy = kernel(a, a), kernel(b, b), kernel(a, b)
    apart = [(each.sum() - len(each)) / (len(each) * (len(each) - 1)) for each in (xx, yy)]
    value, influence = clip_discrepancy(y, x)
    assert value == pytest.approx(1000.0 * (sum(apart) - 2.0 * xy.mean()), abs=1e-9)
    published = 1000.0 * (xx.mean() + yy.mean() - 2.0 * xy.mean())
    more = 1000.0 * ((1.0 - apart[0]) / drawn + (1.0 - apart[1]) / real)
    assert published - value == pytest.approx(more, abs=1e-9)
    assert 0.0 < more < 20.0 * (1.0 / drawn + 1.0 / real)
    assert dict(influence.counts) == {"drawn": drawn, "real": real}


def test_two_points_are_at_the_kernels_distance():
    """All images of a set are one direction of any length: 1000 (2 - 2 exp(-(1 - cos) / 100))."""
    x, y = torch.tensor([[3.0, 0.0]]).repeat(4, 1), torch.tensor([[1.0, 1.0]]).repeat(5, 1)
    expected = -2000.0 * math.expm1(-(1.0 - math.sqrt(0.5)) / 100.0)
    assert clip_discrepancy(y, x)[0] == pytest.approx(expected, rel=1e-9)
    assert clip_discrepancy(2.0 * x, x)[0] == pytest.approx(0.0, abs=1e-12)


def test_the_order_of_the_images_does_not_matter():
    x, y = embeddings(50, 3), embeddings(40, 4, 0.2)
    assert clip_discrepancy(y.flip(0), x.flip(0))[0] == pytest.approx(clip_discrepancy(y, x)[0], rel=1e-9)


def test_the_error_is_that_of_repeated_draws_and_the_value_has_no_bias():
    """The deviation of 400 repeats has a relative standard error of 1 / sqrt(800). The mean at 12 images of each
    differs from that at 100 by at most four standard errors."""
    found, errors, small = [], [], []
    for seed in range(400):
        value, influence = clip_discrepancy(embeddings(100, 2 * seed, 0.5), embeddings(80, 2 * seed + 1))
        found.append(value)
        errors.append(influence.error)
        small.append(clip_discrepancy(embeddings(12, 9000 + seed, 0.5), embeddings(12, 5000 + seed))[0])
    assert np.mean(errors) == pytest.approx(np.std(found), rel=4.0 / math.sqrt(800.0))
    apart = math.hypot(np.std(found), np.std(small)) / 20.0
    assert abs(np.mean(small) - np.mean(found)) < 4.0 * apart
