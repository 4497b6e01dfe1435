"""The SDEs against their own differential equations and published closed forms."""

import math

import pytest
import torch
from torch.func import grad, vmap

from raysde.sde import (
    EDM,
    SDE,
    VE,
    VP,
    Flow,
    SubVP,
)
from tests.support.oracles import DDPM_TABLE, SDES

TIMES = torch.tensor([1e-5, 1e-4, 1e-3, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1.0], dtype=torch.float64)


@pytest.fixture(params=SDES)
def sde(request) -> SDE:
    return SDES[request.param]


@pytest.fixture
def times(sde) -> torch.Tensor:
    """Times from the floor to the ceiling, away from the knots of a table."""
    return torch.cat([TIMES[sde.ceiling > TIMES] + 1e-6, torch.tensor([sde.ceiling], dtype=torch.float64)])


def test_alpha_follows_the_drift(sde, times):
    """alpha' = f alpha."""
    rate = vmap(grad(sde.alpha))(times)
    torch.testing.assert_close(rate, sde.drift_rate(times) * sde.alpha(times), rtol=1e-9, atol=1e-12)


def test_variance_follows_drift_and_diffusion(sde, times):
    """(sigma^2)' = 2 f sigma^2 + g^2: the moment ODE of the forward SDE."""
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
    """1 - exp(-B) without expm1 is 4.7% low at t = 1e-5 in float32; here nothing is lost."""
    t = torch.tensor([1e-5, 1e-4, 1e-3, 0.02, 0.5, sde.ceiling])
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
    assert sde.prior_std == pytest.approx(sde.sigma_max if isinstance(sde, VE | EDM) else sde.ceiling)


@pytest.mark.parametrize("ceiling", [1.0, 0.8, 0.5])
def test_the_prior_follows_the_ceiling(ceiling):
    """VE's noise at t is sigma_min (sigma_max / sigma_min)^t, EDM's sigma_max t, also where sampling starts earlier."""
    ve, edm = VE(sigma_min=0.01, sigma_max=50.0, ceiling=ceiling), EDM(sigma_max=80.0, ceiling=ceiling)
    assert ve.prior_std == pytest.approx(0.01 * 5000.0**ceiling, rel=1e-12)
    assert edm.prior_std == pytest.approx(80.0 * ceiling, rel=1e-12)


def test_a_rough_table_has_a_rate_that_is_nowhere_negative():
    """Harmonic slopes keep each cubic monotone (Fritsch and Butland 1984); arithmetic ones overshoot beside a jump."""
    generator = torch.Generator().manual_seed(0)
    betas = torch.where(torch.rand(40, generator=generator) < 0.3, 0.6, 1e-3).double()
    table = VP(schedule="table", alphas_cumprod=tuple((1.0 - betas).cumprod(0).tolist()))
    t = torch.linspace(1e-6, 1.0, 20_001, dtype=torch.float64)
    # a rate is a sum of three terms of up to three rises of -log(1 - 0.6) in each of 40 steps
    assert (table.beta(t) >= -1e-12 * 40 * 9).all()
    assert (table.marginal(t)[0].diff() <= 1e-15).all()


def test_the_prior_is_where_the_process_ends(sde):
    """Data of unit scale are forgotten at t = 1: alpha / sigma is below 1%, or the noise is sigma_max."""
    alpha, sigma = sde.marginal(torch.tensor(sde.ceiling, dtype=torch.float64))
    assert sigma.item() == pytest.approx(sde.prior_std, rel=1e-4)
    assert isinstance(sde, VE | EDM) or alpha.item() < 0.01


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 3, 8, 8), (4, 3, 2, 8, 8)])
def test_any_shape(sde, shape):
    """Vectors to video: each row gets its own time, also where H equals the batch size."""
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
        (lambda: VP(schedule="table", alphas_cumprod=(0.9, 0.0)), "alphas_cumprod"),  # its B would be infinite
        (lambda: VP(alphas_cumprod=(0.9, 0.5)), "alphas_cumprod"),
        (lambda: VE.for_data(torch.zeros(1, 2)), "two data points"),
        (lambda: VE(sample_floor=1.5), "sample_floor"),
    ],
)
def test_impossible_processes_are_refused(make, culprit):
    with pytest.raises(ValueError, match=culprit):
        make()


OWN_KEYS = {
    "linear": {"beta_min": 0.2, "beta_max": 10.0},
    "cosine": {"cosine_s": 0.01, "cosine_end": 0.99},
    "table": {"alphas_cumprod": (0.9, 0.5)},
}


@pytest.mark.parametrize("kind", [VP, SubVP])
@pytest.mark.parametrize("schedule", OWN_KEYS)
def test_a_key_of_another_schedule_is_refused(kind, schedule):
    """It would have no effect: beta(t) of each schedule is a function of its own keys."""
    needed = OWN_KEYS["table"] if schedule == "table" else {}
    for of, keys in OWN_KEYS.items():
        for name, value in keys.items():
            if of == schedule:
                changed = kind(schedule=schedule, **{**needed, name: value})
                assert schedule == "table" or changed.beta(TIMES[8:9]) != kind(schedule=schedule).beta(TIMES[8:9])
            else:
                with pytest.raises(ValueError, match=f"{name} has no effect on the {schedule} schedule"):
                    kind(schedule=schedule, **{**needed, name: value})


def test_flow_is_the_straight_path():
    t = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    alpha, sigma = Flow().marginal(t)
    assert torch.equal(alpha, 1.0 - t)
    assert torch.equal(sigma, t)
    # the probability flow of data that are all at c has velocity eps - x0 = (x - c) / t
    x, c = torch.tensor([[2.0]], dtype=torch.float64), 0.5
    score = -(x - 0.75 * c) / 0.25**2
    velocity = Flow().probability_flow(x, t[1:2], score)
    torch.testing.assert_close(velocity, (x - c) / 0.25)


def test_edm_is_karras_process():
    """dx = sqrt(2 sigma) dw in the time sigma: g^2 dt = 2 sigma dsigma."""
    sde, t = EDM(sigma_max=80.0), torch.tensor([0.002 / 80.0, 0.3, 1.0], dtype=torch.float64)
    torch.testing.assert_close(sde.sigma(t), 80.0 * t)
    torch.testing.assert_close(sde.diffusion2(t), 2.0 * sde.sigma(t) * 80.0)
    assert sde.sigma(torch.tensor(sde.sample_floor)).item() == pytest.approx(0.002)


def test_a_table_is_met_at_its_entries():
    """alpha^2 at t = i / N is DDPM's alpha-bar, and beta integrates to it: beta = -d log alpha-bar / dt."""
    sde = SDES["vp_table"]
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    torch.testing.assert_close(sde.alpha2(t), torch.tensor(DDPM_TABLE, dtype=torch.float64))
    middles, inside = sde.beta(t - 0.5 / 1000), 1e-9
    # beta is a parabola on each step, which Simpson's rule integrates exactly
    steps = (sde.beta(t - 1 / 1000 + inside) + 4.0 * middles + sde.beta(t - inside)) / 6000
    torch.testing.assert_close(
        torch.exp(-steps.cumsum(0)), torch.tensor(DDPM_TABLE, dtype=torch.float64), rtol=1e-6, atol=0
    )
    # and continuous, so that adaptive solvers do not stumble
    jumps = sde.beta(t[:-1] + inside) - sde.beta(t[:-1] - inside)
    assert jumps.abs().max() < 1e-4
    # DDPM's beta_i N tends to Song's linear schedule from 0.1 to 20 (Song et al. appendix B)
    torch.testing.assert_close(middles, VP().beta(t - 0.5 / 1000), rtol=0.02, atol=0.02)


def test_defaults_are_the_published_ones():
    """Floors of Song et al. (appendix C: 1e-5 in training, 1e-3 for VP's samplers and 1e-5 for VE's), their betas and
    sigmas, Nichol and Dhariwal's s, and Karras et al.'s sigma from 0.002 to 80."""
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


def test_sigma_max_from_data_is_the_largest_distance():
    assert VE.for_data(torch.eye(2), 0.25).sigma_min == 0.25
    x0 = torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, 0.0]])
    assert VE.for_data(x0.reshape(3, 1, 2, 1)).sigma_max == pytest.approx(5.0)
