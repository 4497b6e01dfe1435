"""Linear measurements of images, and their replacement."""

import pytest
import torch

from raysde.sampling.inverse.operators import AveragePool, Chain, Grey, Mask, replace_measurement
from tests.support.gaussian_images import HOLE, PROJECTIONS, SHAPE, SIZE, matrix


@pytest.mark.parametrize("name", PROJECTIONS)
def test_projections_are_what_they_say(name):
    """H^T is the transpose of H; H H^T is the scale on measurements; a replaced measurement is measured, the rest
    stays."""
    projection, h = PROJECTIONS[name], matrix(PROJECTIONS[name])
    g = torch.Generator().manual_seed(1)
    x, other = (torch.randn(5, *SHAPE, dtype=torch.float64, generator=g) for _ in range(2))
    y = projection.measure(other)
    torch.testing.assert_close(y.flatten(1), other.flatten(1) @ h.T)
    torch.testing.assert_close(projection.transpose(y).flatten(1), y.flatten(1) @ h)
    torch.testing.assert_close(y.flatten(1) @ h @ h.T, projection.scale * y.flatten(1))
    made = replace_measurement(x, y, projection)
    torch.testing.assert_close(projection.measure(made), y)
    unknown = torch.eye(SIZE, dtype=torch.float64) - h.T @ h / projection.scale
    torch.testing.assert_close(made.flatten(1) @ unknown, x.flatten(1) @ unknown)


@pytest.mark.parametrize("known", [HOLE, HOLE.expand(5, 1, 2, 2), HOLE.expand(5, 3, 2, 2)])
def test_masked_values_are_replaced_to_the_last_bit(known):
    x, other = torch.randn(5, *SHAPE), torch.randn(5, *SHAPE)
    projection = Mask(known)
    assert torch.equal(replace_measurement(x, projection.measure(other), projection), torch.where(known, other, x))


def test_projections_that_are_none():
    with pytest.raises(ValueError, match="bool"):
        Mask(torch.ones(2, 2))
    with pytest.raises(ValueError, match="factor"):
        AveragePool(0)
    with pytest.raises(ValueError, match="mask"):
        Chain(Mask(HOLE), Grey(3))
