"""The posterior score and moment matching, against Gaussian conditionals."""

import pytest
import torch

from raysde.sampling.inverse.operators import AveragePool, Grey, Mask
from raysde.sampling.inverse.posterior import MomentMatching, conjugate_gradients
from raysde.sampling.inverse.restore import edit
from tests.support.gaussian_images import PROJECTIONS, SHAPE, SIZE, correlated
from tests.support.oracles import SDES, SETTINGS, assert_moments


def test_conjugate_gradients_solve_each_row():
    """Rows converge in as many iterations as dimensions; a row whose matrix is not positive definite stops alone."""
    g = torch.Generator().manual_seed(2)
    mix = torch.randn(4, 6, 6, dtype=torch.float64, generator=g)
    matrices = mix @ mix.transpose(1, 2) + torch.eye(6, dtype=torch.float64)
    matrices[2] = -matrices[2]
    target = torch.randn(4, 6, dtype=torch.float64, generator=g)
    target[3] = 0.0
    found = conjugate_gradients(lambda y: torch.einsum("bij,bj->bi", matrices, y), target, 7)
    torch.testing.assert_close(found[:2], torch.linalg.solve(matrices, target)[:2])
    assert not found[2:].any()


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("what", PROJECTIONS)
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_the_score_given_a_measurement_is_exact(name, what, noise):
    """The posterior score is exact for x_t = alpha x0 + sigma eps with Gaussian x0, with a different time in each row."""
    sde, data, projection = SDES[name], correlated(), PROJECTIONS[what]
    y = projection.measure(data.draw(1, seed=5))
    g = torch.Generator().manual_seed(3)
    t = sde.sample_floor + (sde.ceiling - sde.sample_floor) * torch.rand(6, dtype=torch.float64, generator=g)
    t[0], t[1] = sde.ceiling, sde.sample_floor
    alpha, sigma = (value[:, None, None, None] for value in sde.marginal(t))
    x = alpha * data.draw(6, seed=4) + sigma * torch.randn(6, *SHAPE, dtype=torch.float64, generator=g)
    known = y.expand(6, *y.shape[1:])
    score = MomentMatching(data.score(sde), sde, known, projection, noise, iterations=SIZE)
    expected = data.given(projection, y, noise).score(sde)(x, t)
    torch.testing.assert_close(score.score(x, t), expected, rtol=1e-6, atol=1e-6 * expected.abs().max().item())


CASES = ["heun", "euler_maruyama", "dpmpp_2m", "unipc", "pc"]


@pytest.mark.parametrize("name", ["vp", "sub_vp", "ve"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("what", ["mask", "grey"])
def test_moment_matching_draws_from_the_conditional(name, case, what):
    """Inpainted and coloured Gaussian images have the conditional mean and covariance; the known part is kept exactly."""
    count, shape = 1500, (3, 1, 2)
    sde, data = SDES[name], correlated(shape, seed=1)
    projection = {"mask": Mask(torch.tensor([[True, False]])), "grey": Grey(3)}[what]
    y = projection.measure(data.draw(1, seed=6))
    known = y.expand(count, *y.shape[1:])
    out = edit(
        data.score(sde), sde, known, projection, iterations=3, generator=torch.Generator().manual_seed(0),
        **{"grid": "log_snr", **SETTINGS[case]},
    ).x  # fmt: skip
    wanted = data.given(projection, y)
    assert_moments(out.flatten(1), wanted.mean, wanted.covariance, bias=0.01)
    torch.testing.assert_close(projection.measure(out), known)


def test_moment_matching_with_noise_draws_from_the_posterior():
    """With noisy block means samples follow the posterior: the noise is not reproduced in the image."""
    count, shape, noise = 2000, (1, 2, 4), 0.2
    sde, data, projection = SDES["vp"], correlated(shape, seed=2), AveragePool(2)
    y = projection.measure(data.draw(1, seed=7)) + 0.3
    out = edit(
        data.score(sde), sde, y.expand(count, -1, -1, -1), projection, noise=noise, iterations=2, solver="heun",
        steps=60, generator=torch.Generator().manual_seed(1),
    ).x  # fmt: skip
    wanted = data.given(projection, y, noise)
    assert_moments(out.flatten(1), wanted.mean, wanted.covariance, bias=0.01)


def test_moment_matching_works_at_any_solver():
    """Moment matching works with rk45's times per row, rk4's times between the grid's, and churn's above them."""
    count, shape = 1500, (3, 1, 2)
    sde, data, projection = SDES["flow"], correlated(shape, seed=1), Mask(torch.tensor([[True, False]]))
    y = projection.measure(data.draw(1, seed=6))
    wanted = data.given(projection, y)
    for case in ("rk45", "rk4", "edm_churn", "dpmpp_3m_sde"):
        out = edit(
            data.score(sde), sde, y.expand(count, -1, -1, -1), projection, iterations=3,
            generator=torch.Generator().manual_seed(2), **SETTINGS[case],
        ).x  # fmt: skip
        assert_moments(out.flatten(1), wanted.mean, wanted.covariance, bias=0.01)
