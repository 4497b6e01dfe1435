"""Denoising score matching against closed forms for Gaussian data."""

import math

import pytest
import torch

from raysde.networks.uncertainty import Uncertainty
from raysde.sde.parameterisation import TARGETS, Preconditioning, convert_target, target_of
from raysde.training.losses import WEIGHTINGS, Criterion, denoising_score_matching, noise_weight, weigh_by_uncertainty
from tests.support.oracles import SDES, gaussian_score

MEAN, STD = 0.3, 0.5
COUNT = 100_000
KNOWN = {"data_std": STD, "min_snr_gamma": 5.0}


def noised(sde, time, seed=0):
    """Return Gaussian data noised to one time, in float64."""
    g = torch.Generator().manual_seed(seed)
    x0 = MEAN + STD * torch.randn(COUNT, 1, dtype=torch.float64, generator=g)
    eps = torch.randn(COUNT, 1, dtype=torch.float64, generator=g)
    t = torch.full((COUNT,), time, dtype=torch.float64)
    alpha, sigma = (value[:, None] for value in sde.marginal(t))
    return x0, eps, t, alpha, sigma, alpha * x0 + sigma * eps


def output_for(target, score, x_t, alpha, sigma):
    """Return the output of a network whose score is ``score``."""
    value = convert_target(score, x_t, alpha, sigma, "score", target, STD)
    return value / Preconditioning().output_scale(target, alpha, sigma)


def published_lambda(weighting, sde, t, target):
    """Return lambda, the weight of the squared score error, as each paper gives it."""
    alpha, sigma = sde.marginal(t)
    snr = (alpha / sigma) ** 2
    over_x0 = sigma**4 / alpha**2  # squared x0 error per unit of squared score error
    return {
        "sigma2": sigma**2,
        "likelihood": sde.diffusion2(t),
        "x0": over_x0,
        "min_snr": torch.minimum(snr, torch.tensor(5.0)) * over_x0,
        "edm": ((sigma / alpha) ** 2 + STD**2) / (sigma / alpha * STD) ** 2 * over_x0,
    }[weighting]


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("weighting", ["sigma2", "likelihood"])
def test_loss_at_the_exact_score(name, target, weighting):
    """E (eps_hat - eps)^2 = alpha^2 s^2 / (alpha^2 s^2 + sigma^2), times lambda / sigma^2."""
    sde = SDES[name]
    for time in (0.1, 0.5, 0.9):
        x0, eps, t, alpha, sigma, x_t = noised(sde, time)
        output = output_for(target, gaussian_score(MEAN, STD, sde)(x_t, t), x_t, alpha, sigma)
        losses = denoising_score_matching(output, x0, eps, t, sde, target, Criterion(weighting=weighting), data_std=STD)
        power = (alpha[0, 0] * STD) ** 2
        expected = power / (power + sigma[0, 0] ** 2)
        if weighting == "likelihood":
            expected = expected * sde.diffusion2(t[0]) / sigma[0, 0] ** 2
        assert abs(losses.mean() - expected) < 4 * losses.std() / COUNT**0.5


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("weighting", [name for name in WEIGHTINGS if name != "target"])
def test_a_shifted_score_costs_its_weight(name, target, weighting):
    """With the score off by c, the loss grows by lambda c^2, whatever the network predicts."""
    sde, shift = SDES[name], 0.7
    x0, eps, t, alpha, sigma, x_t = noised(sde, 0.4, seed=1)
    exact = gaussian_score(MEAN, STD, sde)(x_t, t)
    before, after = (
        denoising_score_matching(
            output_for(target, score, x_t, alpha, sigma),
            x0,
            eps,
            t,
            sde,
            target,
            Criterion(weighting=weighting),
            data_std=STD,
        )
        for score in (exact, exact + shift)
    )
    growth, weight = after - before, published_lambda(weighting, sde, t[0], target)
    assert abs(growth.mean() - weight * shift**2) < 4 * growth.std() / COUNT**0.5


@pytest.mark.parametrize("target", TARGETS)
def test_target_weighting_is_the_plain_error(target):
    sde, g = SDES["ve"], torch.Generator().manual_seed(2)
    x0, eps, output = (torch.randn(16, 3, 2, 2, dtype=torch.float64, generator=g) for _ in range(3))
    t = torch.rand(16, dtype=torch.float64, generator=g) * 0.9 + 0.05
    alpha, sigma = (value[:, None, None, None] for value in sde.marginal(t))
    wanted = target_of(target, x0, eps, alpha, sigma, STD)
    wanted = {"score": -eps, "v": wanted / (alpha**2 + sigma**2).sqrt()}.get(target, wanted)
    expected = (output - wanted).square().mean(dim=(1, 2, 3))
    found = denoising_score_matching(output, x0, eps, t, sde, target, Criterion(weighting="target"), data_std=STD)
    torch.testing.assert_close(found, expected)


def test_half_sum_is_songs_ve_reduction():
    """half_sum is half the sum over pixels, D / 2 times the mean: 1536 times for CIFAR-10's 3072 values."""
    g = torch.Generator().manual_seed(3)
    x0, eps, output = (torch.randn(2, 3, 32, 32, generator=g) for _ in range(3))
    t = torch.tensor([0.2, 0.8])
    losses = [
        denoising_score_matching(output, x0, eps, t, SDES["vp"], "noise", Criterion(reduction=reduction))
        for reduction in ("mean", "half_sum")
    ]
    torch.testing.assert_close(losses[1], 1536.0 * losses[0])


def test_min_snr_in_its_own_words():
    """min_snr weighs the noise by min(SNR, gamma) / SNR, x0 by min(SNR, gamma), v by min(SNR, gamma) / (SNR + 1) on
    VP."""
    sde, t = SDES["vp"], torch.tensor([0.05, 0.2, 0.6], dtype=torch.float64)
    snr = sde.snr(t)
    cut = torch.minimum(snr, torch.tensor(5.0))
    torch.testing.assert_close(noise_weight("min_snr", sde, t, **KNOWN), cut / snr)
    x0, eps = torch.zeros(3, 1, dtype=torch.float64), torch.zeros(3, 1, dtype=torch.float64)
    for target, expected in (("x0", cut), ("v", cut / (snr + 1.0))):
        loss = denoising_score_matching(
            torch.ones_like(x0), x0, eps, t, sde, target, Criterion(weighting="min_snr"), data_std=STD
        )
        torch.testing.assert_close(loss, expected)


def test_edm_weighting_makes_every_level_of_f_count_alike():
    """Since lambda c_out^2 = 1 (Karras et al. table 1), the EDM-weighted loss of F is its plain error."""
    sde, g = SDES["edm"], torch.Generator().manual_seed(4)
    x0, eps, output = (torch.randn(8, 5, dtype=torch.float64, generator=g) for _ in range(3))
    t = torch.logspace(-4, 0, 8, dtype=torch.float64)
    weighted = denoising_score_matching(output, x0, eps, t, sde, "edm", Criterion(weighting="edm"), data_std=STD)
    plain = denoising_score_matching(output, x0, eps, t, sde, "edm", Criterion(weighting="target"), data_std=STD)
    torch.testing.assert_close(weighted, plain)


def test_an_unknown_weighting_is_named():
    with pytest.raises(ValueError, match="magic"):
        noise_weight("magic", SDES["vp"], torch.tensor([0.5]), **KNOWN)


def test_an_uncertainty_that_is_loaded_is_the_one_that_was_saved():
    """A loaded uncertainty has the saved random features, which a fresh one would draw anew."""
    saved, loaded = Uncertainty(), Uncertainty()
    torch.nn.init.normal_(saved.out.weight, generator=torch.Generator().manual_seed(0))
    loaded.load_state_dict(saved.state_dict())
    log_snr = torch.linspace(-9.0, 9.0, 50)
    assert torch.equal(loaded(log_snr), saved(log_snr))
    assert not torch.allclose(saved(log_snr), Uncertainty()(log_snr))


def test_uncertainty_starts_as_nothing_and_learns_the_log_of_the_loss():
    """The uncertainty starts at u = 0 and learns u = log L, the minimum of L / e^u + u (Karras et al. 2024, eq. 21)."""
    torch.manual_seed(0)
    head = Uncertainty()
    log_snr = torch.linspace(-10.0, 10.0, 256)
    loss = torch.exp(0.2 * log_snr - 1.0)
    assert torch.equal(weigh_by_uncertainty(loss, head(log_snr)), loss)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    for _ in range(600):
        optimizer.zero_grad()
        weigh_by_uncertainty(loss, head(log_snr)).mean().backward()
        optimizer.step()
    assert (head(log_snr) - loss.log()).abs().max() < 0.1
    assert weigh_by_uncertainty(torch.tensor([math.e]), torch.tensor([1.0])).item() == pytest.approx(2.0)
