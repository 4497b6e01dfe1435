"""The SDEs against their own differential equations and published closed forms."""

import math

import pytest
import torch
from torch.func import grad, vmap

from raysde.sde import SDE, VE, VP, SubVP
from tests.oracles import SDES

TIMES = torch.tensor([1e-5, 1e-4, 1e-3, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1.0], dtype=torch.float64)


@pytest.fixture(params=SDES)
def sde(request) -> SDE:
    return SDES[request.param]


def test_alpha_follows_the_drift(sde):
    """alpha' = f alpha."""
    rate = vmap(grad(sde.alpha))(TIMES)
    torch.testing.assert_close(rate, sde.drift_rate(TIMES) * sde.alpha(TIMES), rtol=1e-9, atol=1e-12)


def test_variance_follows_drift_and_diffusion(sde):
    """(sigma^2)' = 2 f sigma^2 + g^2: the moment ODE of the forward SDE."""
    rate = vmap(grad(sde.sigma2))(TIMES)
    expected = 2.0 * sde.drift_rate(TIMES) * sde.sigma2(TIMES) + sde.diffusion2(TIMES)
    torch.testing.assert_close(rate, expected, rtol=1e-9, atol=1e-12)


def test_starts_at_the_data(sde):
    alpha, sigma = sde.marginal(torch.zeros((), dtype=torch.float64))
    assert alpha.item() == 1.0
    # VE keeps sigma_min at t = 0, as Song's code does
    assert sigma.item() == pytest.approx(sde.sigma_min if isinstance(sde, VE) else 0.0, abs=1e-15)


def test_all_quantities_agree_with_alpha_and_sigma(sde):
    alpha, sigma = sde.marginal(TIMES)
    torch.testing.assert_close(sde.alpha2(TIMES), alpha**2)
    torch.testing.assert_close(sde.sigma2(TIMES), sigma**2)
    torch.testing.assert_close(sde.snr(TIMES), alpha**2 / sigma**2)
    torch.testing.assert_close(sde.log_snr(TIMES), torch.log(alpha**2 / sigma**2))
    torch.testing.assert_close(sde.diffusion(TIMES) ** 2, sde.diffusion2(TIMES))
    x = torch.randn(len(TIMES), 2, 3, dtype=torch.float64)
    torch.testing.assert_close(sde.drift(x, TIMES), sde.drift_rate(TIMES)[:, None, None] * x)


def test_log_snr_falls_and_inverts(sde):
    log_snr = sde.log_snr(TIMES)
    assert (log_snr.diff() < 0).all()
    torch.testing.assert_close(sde.time_at(log_snr), TIMES, rtol=1e-10, atol=1e-13)


def test_float32_keeps_small_times(sde):
    """1 - exp(-B) without expm1 is 4.7% low at t = 1e-5 in float32; here nothing is lost."""
    t = torch.tensor([1e-5, 1e-4, 1e-3, 0.02, 0.5, 1.0])
    exact = sde.sigma(t.double())
    assert ((sde.sigma(t).double() - exact) / exact).abs().max() < 3e-6
    exact = sde.alpha(t.double())
    assert ((sde.alpha(t).double() - exact) / exact).abs().max() < 2e-5
    assert (sde.log_snr(t).double() - sde.log_snr(t.double())).abs().max() < 2e-5


@pytest.mark.parametrize(("t", "integral"), [(0.0, 0.0), (0.5, 0.1 * 0.5 + 0.5 * 19.9 * 0.25), (1.0, 10.05)])
def test_linear_schedule_in_numbers(t, integral):
    """B(t) = beta_0 t + (beta_1 - beta_0) t^2 / 2 and the published means and deviations."""
    time = torch.tensor(t, dtype=torch.float64)
    assert VP().beta_integral(time).item() == pytest.approx(integral)
    assert VP().alpha(time).item() == pytest.approx(math.exp(-0.5 * integral))
    assert VP().sigma(time).item() == pytest.approx(math.sqrt(1.0 - math.exp(-integral)))
    assert SubVP().sigma(time).item() == pytest.approx(1.0 - math.exp(-integral))
    assert VE(sigma_min=0.01, sigma_max=50.0).sigma(time).item() == pytest.approx(0.01 * 5000.0**t)


def test_cosine_schedule_is_nichol_and_dhariwals():
    s, t = 0.008, TIMES
    place = t * 0.9946
    expected = torch.cos((place + s) / (1 + s) * math.pi / 2) / math.cos(s / (1 + s) * math.pi / 2)
    torch.testing.assert_close(VP(schedule="cosine").alpha(t), expected)


def test_beta_is_the_derivative_of_its_integral():
    for sde in (VP(), VP(schedule="cosine"), SubVP(beta_min=2.0, beta_max=2.0)):
        torch.testing.assert_close(vmap(grad(sde.beta_integral))(TIMES), sde.beta(TIMES))


def test_prior(sde):
    """Sampling and log-density agree with torch's Normal of the prior's deviation."""
    x = sde.prior((20_000, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.distributions.Normal(0.0, sde.prior_std).log_prob(x).sum(dim=1)
    torch.testing.assert_close(sde.prior_log_prob(x), expected)
    variance, standard_error = x.square().mean().item(), sde.prior_std**2 * math.sqrt(2.0 / x.numel())
    assert abs(variance - sde.prior_std**2) < 4 * standard_error
    assert sde.prior_std == (sde.sigma_max if isinstance(sde, VE) else 1.0)


def test_the_prior_is_where_the_process_ends(sde):
    """Data of unit scale are forgotten at t = 1: alpha / sigma is below 1%, or the noise is sigma_max."""
    alpha, sigma = sde.marginal(torch.ones((), dtype=torch.float64))
    assert sigma.item() == pytest.approx(sde.prior_std, rel=1e-4)
    assert isinstance(sde, VE) or alpha.item() < 0.01


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 3, 8, 8), (4, 3, 2, 8, 8)])
def test_any_shape(sde, shape):
    """Vectors to video: each row gets its own time, also where H equals the batch size."""
    x, t = torch.randn(shape, dtype=torch.float64), torch.tensor([0.1, 0.4, 0.6, 1.0], dtype=torch.float64)
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
        (lambda: VE(sample_floor=1.5), "sample_floor"),
    ],
)
def test_impossible_processes_are_refused(make, culprit):
    with pytest.raises(ValueError, match=culprit):
        make()
