"""Targets are exact rewritings of one another."""

import pytest
import torch

from raysde.conditioning import Conditioner, Encoded
from raysde.score import TARGETS, ScoreModel, eps_from, output_scale, target_of, x0_from
from tests.oracles import SDES


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("target", TARGETS)
def test_every_target_gives_back_noise_and_image(name, target):
    g = torch.Generator().manual_seed(0)
    x0, eps = (torch.randn(64, 3, 4, 4, dtype=torch.float64, generator=g) for _ in range(2))
    t = torch.rand(64, 1, 1, 1, dtype=torch.float64, generator=g) * 0.9 + 0.05
    alpha, sigma = SDES[name].marginal(t)
    value = target_of(target, x0, eps, alpha, sigma)
    x_t = alpha * x0 + sigma * eps
    torch.testing.assert_close(eps_from(target, value, x_t, alpha, sigma), eps, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(x0_from(target, value, x_t, alpha, sigma), x0, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("target", TARGETS)
def test_the_score_of_known_noise(name, target):
    """A network that knows the noise gives score = -eps / sigma, whatever its target and scaling."""
    sde, g = SDES[name], torch.Generator().manual_seed(1)
    x0, eps = (torch.randn(8, 1, 4, 4, dtype=torch.float64, generator=g) for _ in range(2))
    t = torch.linspace(0.05, 0.95, 8, dtype=torch.float64)
    alpha, sigma = (value[:, None, None, None] for value in sde.marginal(t))

    class Knowing(torch.nn.Module):
        def forward(self, x, t):
            # the network sees x_t scaled to unit variance for data of the stated deviation
            torch.testing.assert_close(x, (alpha * x0 + sigma * eps) / torch.sqrt(alpha**2 * 0.25 + sigma**2))
            return target_of(target, x0, eps, alpha, sigma) / output_scale(target, alpha, sigma)

    model = ScoreModel(Knowing(), Conditioner(None, None, 0), sde, target, 0.5)
    x_t = alpha * x0 + sigma * eps
    torch.testing.assert_close(model.score(x_t, t, Encoded()), -eps / sigma)
    torch.testing.assert_close(model.eps_hat(x_t, t, Encoded()), eps)
    torch.testing.assert_close(model.x0_hat(x_t, t, Encoded()), x0, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("target", TARGETS)
def test_outputs_have_unit_size(name, target):
    """The network never has to give numbers far from 1, under any SDE at any time."""
    g = torch.Generator().manual_seed(2)
    x0, eps = (torch.randn(4096, 1, dtype=torch.float64, generator=g) for _ in range(2))
    for t in (1e-3, 0.1, 0.5, 0.9, 1.0):
        alpha, sigma = SDES[name].marginal(torch.tensor(t, dtype=torch.float64))
        size = (target_of(target, x0, eps, alpha, sigma) / output_scale(target, alpha, sigma)).std().item()
        assert size == pytest.approx(1.0, rel=0.1)
