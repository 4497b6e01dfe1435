"""The EDM process, and VE's sigma_max computed from data."""

import pytest
import torch

from raysde.sde import (
    EDM,
    VE,
)


def test_edm_is_karras_process():
    """EDM is dx = sqrt(2 sigma) dw with time sigma: g^2 dt = 2 sigma dsigma (Karras et al. 2022)."""
    sde, t = EDM(sigma_max=80.0), torch.tensor([0.002 / 80.0, 0.3, 1.0], dtype=torch.float64)
    torch.testing.assert_close(sde.sigma(t), 80.0 * t)
    torch.testing.assert_close(sde.diffusion2(t), 2.0 * sde.sigma(t) * 80.0)
    assert sde.sigma(torch.tensor(sde.sample_floor)).item() == pytest.approx(0.002)


def test_sigma_max_from_data_is_the_largest_distance():
    assert VE.for_data(torch.eye(2), 0.25).sigma_min == 0.25
    x0 = torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, 0.0]])
    assert VE.for_data(x0.reshape(3, 1, 2, 1)).sigma_max == pytest.approx(5.0)
