"""The oracles: closed forms agree with autograd of torch's own log densities."""

import pytest
import torch

from tests.support.oracles import SDES, gaussian, mixture


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("make", [gaussian, mixture])
def test_score_is_the_gradient_of_the_log_density(name, make):
    sde, data, g = SDES[name], make(), torch.Generator().manual_seed(0)
    x = torch.randn(32, 2, dtype=torch.float64, generator=g).requires_grad_()
    t = torch.rand(32, dtype=torch.float64, generator=g) * 0.9 + 0.1
    (gradient,) = torch.autograd.grad(data.log_prob(x, t, sde).sum(), x)
    torch.testing.assert_close(data.score(sde)(x.detach(), t), gradient)


def test_moments_of_the_mixture():
    data = mixture()
    x = data.sample(200_000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(x.mean(dim=0), data.mean, atol=0.01, rtol=0)
    torch.testing.assert_close(x.T.cov(), data.covariance, atol=0.02, rtol=0)
