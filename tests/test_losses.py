"""Denoising score matching against closed forms for Gaussian data."""

import pytest
import torch

from raysde import randomness
from raysde.losses import WEIGHTINGS, denoising_score_matching, sample_times
from raysde.score import TARGETS, output_scale
from tests.oracles import SDES, gaussian_score

MEAN, STD = 0.3, 0.5
COUNT = 400_000


def exact_output(sde, target, x_t, t):
    """The output of a network that knows the exact score of N(MEAN, STD^2) data."""
    alpha, sigma = (value[:, None] for value in sde.marginal(t))
    score = gaussian_score(MEAN, STD, sde)(x_t, t)
    x0_hat = (x_t + sigma**2 * score) / alpha
    eps_hat = -sigma * score
    value = {"noise": eps_hat, "score": score, "x0": x0_hat, "v": alpha * eps_hat - sigma * x0_hat}[target]
    return value / output_scale(target, alpha, sigma)


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("weighting", ["sigma2", "likelihood"])
def test_loss_at_the_exact_score(name, target, weighting):
    """E (eps_hat - eps)^2 = alpha^2 s^2 / (alpha^2 s^2 + sigma^2), times lambda / sigma^2."""
    sde, g = SDES[name], torch.Generator().manual_seed(0)
    x0 = MEAN + STD * torch.randn(COUNT, 1, dtype=torch.float64, generator=g)
    eps = torch.randn(COUNT, 1, dtype=torch.float64, generator=g)
    for time in (0.1, 0.5, 0.9):
        t = torch.full((COUNT,), time, dtype=torch.float64)
        alpha, sigma = (value[:, None] for value in sde.marginal(t))
        output = exact_output(sde, target, alpha * x0 + sigma * eps, t)
        losses = denoising_score_matching(output, x0, eps, t, sde, target, weighting)
        power = (alpha[0, 0] * STD) ** 2
        expected = power / (power + sigma[0, 0] ** 2)
        if weighting == "likelihood":
            expected = expected * sde.diffusion2(t[0]) / sigma[0, 0] ** 2
        standard_error = losses.std() / COUNT**0.5
        assert abs(losses.mean() - expected) < 4 * standard_error


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("target", TARGETS)
def test_a_shifted_score_costs_its_weight(name, target):
    """With the score off by c, the loss grows by lambda c^2: sigma^2 c^2 and g^2 c^2."""
    sde, g = SDES[name], torch.Generator().manual_seed(1)
    x0 = MEAN + STD * torch.randn(COUNT, 1, dtype=torch.float64, generator=g)
    eps = torch.randn(COUNT, 1, dtype=torch.float64, generator=g)
    t = torch.full((COUNT,), 0.4, dtype=torch.float64)
    alpha, sigma = (value[:, None] for value in sde.marginal(t))
    exact, shift = exact_output(sde, target, alpha * x0 + sigma * eps, t), 0.7
    # d output / d score of each target at fixed x_t
    slope = {"noise": -sigma, "score": 1.0, "x0": sigma**2 / alpha, "v": -alpha * sigma - sigma**3 / alpha}[target]
    moved = exact + shift * slope / output_scale(target, alpha, sigma)
    for weighting, weight in (("sigma2", sigma[0, 0] ** 2), ("likelihood", sde.diffusion2(t[0]))):
        before = denoising_score_matching(exact, x0, eps, t, sde, target, weighting)
        after = denoising_score_matching(moved, x0, eps, t, sde, target, weighting)
        growth = after - before
        assert abs(growth.mean() - weight * shift**2) < 4 * growth.std() / COUNT**0.5


@pytest.mark.parametrize("target", TARGETS)
def test_target_weighting_is_the_plain_error(target):
    sde, g = SDES["ve"], torch.Generator().manual_seed(2)
    x0, eps, output = (torch.randn(16, 3, 2, 2, dtype=torch.float64, generator=g) for _ in range(3))
    t = torch.rand(16, dtype=torch.float64, generator=g) * 0.9 + 0.05
    alpha, sigma = (value[:, None, None, None] for value in sde.marginal(t))
    wanted = {"noise": eps, "score": -eps, "x0": x0, "v": (alpha * eps - sigma * x0) / (alpha**2 + sigma**2).sqrt()}
    expected = (output - wanted[target]).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(denoising_score_matching(output, x0, eps, t, sde, target, "target"), expected)


def test_every_weighting_has_a_name():
    assert set(WEIGHTINGS) == {"sigma2", "likelihood", "target"}


def test_times_are_stratified_over_the_global_batch():
    """Each of the batch's equal intervals above the floor holds one time, however it is cut into microbatches."""
    sde, batch = SDES["vp"], 64
    offset = torch.rand((), generator=randomness.generator(0, randomness.TIMES, 3))
    whole = sample_times(sde, offset, 0, batch, batch)
    parts = torch.cat([sample_times(sde, offset, start, 16, batch) for start in range(0, batch, 16)])
    assert torch.equal(whole, parts)
    unit = (whole.double() - sde.train_floor) / (1 - sde.train_floor)
    assert torch.equal((unit * batch).long(), torch.arange(batch))
    assert whole.min() >= sde.train_floor
    assert whole.max() <= 1.0


def test_times_are_uniform_over_steps():
    """Mean 1/2 and variance 1/12 of one place's position in its interval, to four standard errors."""
    sde = SDES["vp"]
    offsets = [torch.rand((), generator=randomness.generator(0, randomness.TIMES, step)) for step in range(4000)]
    drawn = torch.stack([sample_times(sde, offset, 5, 1, 64)[0] for offset in offsets]).double() * 64 - 5
    assert abs(drawn.mean() - 0.5) < 4 * (1 / 12 / 4000) ** 0.5
    assert abs(drawn.var() - 1 / 12) < 4 * (1 / 180 / 4000) ** 0.5
