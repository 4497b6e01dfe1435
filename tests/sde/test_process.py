"""The SDEs against their own differential equations and published closed forms."""

import math

import pytest
import torch
from torch.func import grad, vmap

from raysde.sde import (
    EDM,
    VE,
    VP,
    Flow,
    SubVP,
)


def test_alpha_follows_the_drift(sde, times):
    """The derivative of alpha is f alpha."""
    rate = vmap(grad(sde.alpha))(times)
    torch.testing.assert_close(rate, sde.drift_rate(times) * sde.alpha(times), rtol=1e-9, atol=1e-12)


def test_variance_follows_drift_and_diffusion(sde, times):
    """The moment ODE of the forward SDE holds: (sigma^2)' = 2 f sigma^2 + g^2."""
    rate = vmap(grad(sde.sigma2))(times)
    expected = 2.0 * sde.drift_rate(times) * sde.sigma2(times) + sde.diffusion2(times)
    torch.testing.assert_close(rate, expected, rtol=1e-9, atol=1e-12)


def test_starts_at_the_data(sde):
    alpha, sigma = sde.marginal(torch.zeros((), dtype=torch.float64))
    assert alpha.item() == 1.0
    # VE keeps sigma_min at t = 0, as Song's code does
    assert sigma.item() == pytest.approx(sde.sigma_min if isinstance(sde, VE) else 0.0, abs=1e-15)


def test_all_quantities_agree_with_alpha_and_sigma(sde, times):
    alpha, sigma = sde.marginal(times)
    torch.testing.assert_close(sde.alpha2(times), alpha**2)
    torch.testing.assert_close(sde.sigma2(times), sigma**2)
    torch.testing.assert_close(sde.snr(times), alpha**2 / sigma**2)
    torch.testing.assert_close(sde.log_snr(times), torch.log(alpha**2 / sigma**2))
    torch.testing.assert_close(sde.diffusion(times) ** 2, sde.diffusion2(times))
    x = torch.randn(len(times), 2, 3, dtype=torch.float64)
    torch.testing.assert_close(sde.drift(x, times), sde.drift_rate(times)[:, None, None] * x)


def test_log_snr_falls_and_inverts(sde, times):
    log_snr = sde.log_snr(times)
    assert (log_snr.diff() < 0).all()
    torch.testing.assert_close(sde.time_at(log_snr), times, rtol=1e-10, atol=1e-13)


def test_float32_keeps_small_times(sde):
    """float32 keeps full precision at t = 1e-5, where 1 - exp(-B) without expm1 is 4.7% low."""
    t = torch.tensor([1e-5, 1e-4, 1e-3, 0.02, 0.5, sde.ceiling])
    exact = sde.sigma(t.double())
    assert ((sde.sigma(t).double() - exact) / exact).abs().max() < 3e-6
    exact = sde.alpha(t.double())
    assert ((sde.alpha(t).double() - exact) / exact).abs().max() < 2e-5
    assert (sde.log_snr(t).double() - sde.log_snr(t.double())).abs().max() < 2e-5


def test_prior(sde):
    """Prior samples and log density agree with torch's Normal of the same standard deviation."""
    x = sde.prior((20_000, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.distributions.Normal(0.0, sde.prior_std).log_prob(x).sum(dim=1)
    torch.testing.assert_close(sde.prior_log_prob(x), expected)
    variance, standard_error = x.square().mean().item(), sde.prior_std**2 * math.sqrt(2.0 / x.numel())
    assert abs(variance - sde.prior_std**2) < 4 * standard_error
    assert sde.prior_std == pytest.approx(sde.sigma_max if isinstance(sde, VE | EDM) else sde.ceiling)


@pytest.mark.parametrize("ceiling", [1.0, 0.8, 0.5])
def test_the_prior_follows_the_ceiling(ceiling):
    """The prior has the noise level at the ceiling: VE's sigma_min (sigma_max / sigma_min)^t and EDM's sigma_max t."""
    ve, edm = VE(sigma_min=0.01, sigma_max=50.0, ceiling=ceiling), EDM(sigma_max=80.0, ceiling=ceiling)
    assert ve.prior_std == pytest.approx(0.01 * 5000.0**ceiling, rel=1e-12)
    assert edm.prior_std == pytest.approx(80.0 * ceiling, rel=1e-12)


def test_the_prior_is_where_the_process_ends(sde):
    """At t = 1 data of unit scale are forgotten: alpha / sigma is below 1%, or the noise level is sigma_max."""
    alpha, sigma = sde.marginal(torch.tensor(sde.ceiling, dtype=torch.float64))
    assert sigma.item() == pytest.approx(sde.prior_std, rel=1e-4)
    assert isinstance(sde, VE | EDM) or alpha.item() < 0.01


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 3, 8, 8), (4, 3, 2, 8, 8)])
def test_any_shape(sde, shape):
    """Each row gets its own time for vectors to video, also where H equals the batch size."""
    x, t = torch.randn(shape, dtype=torch.float64), torch.tensor([0.1, 0.4, 0.6, sde.ceiling], dtype=torch.float64)
    score = torch.randn(shape, dtype=torch.float64)
    for row in range(4):
        one = slice(row, row + 1)
        torch.testing.assert_close(sde.drift(x, t)[one], sde.drift(x[one], t[one]))
        expected = sde.drift(x[one], t[one]) - sde.diffusion2(t[row]) * score[one]
        torch.testing.assert_close(sde.reverse_drift(x, t, score)[one], expected)
        half = sde.drift(x[one], t[one]) - 0.5 * sde.diffusion2(t[row]) * score[one]
        torch.testing.assert_close(sde.probability_flow(x, t, score)[one], half)


@pytest.mark.parametrize(
    ("make", "culprit"),
    [
        (lambda: VP(beta_min=-1.0), "beta_min"),
        (lambda: VP(beta_min=5.0, beta_max=1.0), "beta_max"),
        (lambda: VP(schedule="sigmoid"), "schedule"),  # type: ignore[arg-type]
        (lambda: VP(schedule="cosine", beta_max=10.0), "beta_max"),
        (lambda: SubVP(cosine_s=0.1), "cosine_s"),
        (lambda: VP(schedule="cosine", cosine_end=1.0), "cosine_end"),
        (lambda: VE(sigma_min=2.0, sigma_max=1.0), "sigma_min"),
        (lambda: VE(sigma_min=0.0), "sigma_min"),
        (lambda: VP(train_floor=0.0), "train_floor"),
        (lambda: SubVP(train_floor=0.0), "train_floor"),
        (lambda: EDM(train_floor=0.0), "train_floor"),
        (lambda: Flow(sample_floor=0.0), "sample_floor"),
        (lambda: VE(train_floor=-1e-3), "train_floor"),
        (lambda: VP(ceiling=1.5), "ceiling"),
        (lambda: Flow(ceiling=1e-4), "ceiling"),
        (lambda: EDM(sigma_max=-1.0), "sigma_max"),
        (lambda: VP(schedule="table"), "alphas_cumprod"),
        (lambda: VP(schedule="table", alphas_cumprod=(0.9, 0.95)), "alphas_cumprod"),
        (lambda: VP(schedule="table", alphas_cumprod=(0.9, 0.9)), "alphas_cumprod"),
        (lambda: VP(schedule="table", alphas_cumprod=(1.0, 0.5)), "alphas_cumprod"),
        (lambda: VP(schedule="table", alphas_cumprod=(0.9, 0.0)), "alphas_cumprod"),  # B would be infinite
        (lambda: VP(alphas_cumprod=(0.9, 0.5)), "alphas_cumprod"),
        (lambda: VE.for_data(torch.zeros(1, 2)), "two data points"),
        (lambda: VE(sample_floor=1.5), "sample_floor"),
    ],
)
def test_impossible_processes_are_refused(make, culprit):
    with pytest.raises(ValueError, match=culprit):
        make()


def test_defaults_are_the_published_ones():
    """Defaults are Song et al.'s floors (appendix C: 1e-5 in training, 1e-3 for VP's samplers, 1e-5 for VE's), betas
    and sigmas, Nichol and Dhariwal's s, and Karras et al.'s sigma from 0.002 to 80."""
    for sde in (VP(), SubVP()):
        assert (sde.train_floor, sde.sample_floor, sde.ceiling) == (1e-5, 1e-3, 1.0)
        assert (sde.beta_min, sde.beta_max, sde.cosine_s, sde.schedule) == (0.1, 20.0, 0.008, "linear")
    ve, edm = VE(), EDM()
    assert (ve.train_floor, ve.sample_floor, ve.ceiling) == (1e-5, 1e-5, 1.0)
    assert (ve.sigma_min, ve.sigma_max) == (0.01, 50.0)
    floors = [edm.sigma(torch.tensor(t, dtype=torch.float64)).item() for t in (edm.train_floor, edm.sample_floor)]
    assert floors == pytest.approx([0.002, 0.002])
    assert (edm.sigma_max, edm.ceiling) == (80.0, 1.0)
    assert Flow().train_floor == 1e-5
    assert Flow().alpha(torch.tensor(Flow().ceiling, dtype=torch.float64)).item() == pytest.approx(1e-3)
