"""Distributions of training times: their shapes, their densities, and strata over the global batch."""

import math

import pytest
import torch

from raysde import rng
from raysde.sde import VE, VP, SubVP
from raysde.training.losses import noise_weight
from raysde.training.time_sampling import (
    Importance,
    LogNormal,
    Uniform,
    UniformLogSnr,
    default_time_sampling,
    draw_stratified,
    log_snr_range,
)
from tests.support.oracles import SDES

U = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000


def test_strata_cover_the_global_batch():
    """Each of the batch's equal intervals holds one number, however it is cut into microbatches."""
    batch = 64
    offset = torch.rand((), generator=rng.generator(0, rng.TIMES, 3))
    whole = draw_stratified(offset, 0, batch, batch)
    parts = torch.cat([draw_stratified(offset, start, 16, batch) for start in range(0, batch, 16)])
    assert torch.equal(whole, parts)
    assert torch.equal((whole * batch).long(), torch.arange(batch))
    assert 0.0 <= whole.min() < whole.max() < 1.0


def test_strata_are_uniform_over_steps():
    """A row's position in its interval has mean 1/2 and variance 1/12, to four standard errors."""
    offsets = [torch.rand((), generator=rng.generator(0, rng.TIMES, step)) for step in range(4000)]
    drawn = torch.stack([draw_stratified(offset, 5, 1, 64)[0] for offset in offsets]) * 64 - 5
    assert abs(drawn.mean() - 0.5) < 4 * (1 / 12 / 4000) ** 0.5
    assert abs(drawn.var() - 1 / 12) < 4 * (1 / 180 / 4000) ** 0.5


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("times", [Uniform(), LogNormal(), UniformLogSnr(), Importance()])
def test_times_stay_in_the_domain_and_rise(name, times):
    sde = SDES[name]
    t = times.quantile(sde, torch.linspace(0.0, 1.0 - 1e-12, 1000, dtype=torch.float64))
    assert t.min() >= sde.train_floor
    assert t.max() <= sde.ceiling
    assert (t.diff() >= 0).all()


def test_uniform_times_are_uniform():
    sde = SDES["flow"]
    t = Uniform().quantile(sde, U)
    assert t[0].item() == pytest.approx(sde.train_floor, abs=1e-5)
    assert t[-1].item() == pytest.approx(sde.ceiling, abs=1e-5)
    torch.testing.assert_close(t.diff(), t.diff()[:1].expand(len(U) - 1), rtol=1e-6, atol=1e-12)


def test_lognormal_noise_levels():
    """log sigma has the requested mean and standard deviation (Karras et al.: -1.2 and 1.2)."""
    sde = SDES["edm"]
    log_sigma = sde.sigma(LogNormal().quantile(sde, U)).log()
    assert log_sigma.mean().item() == pytest.approx(-1.2, abs=1e-4)
    assert log_sigma.std().item() == pytest.approx(1.2, abs=1e-3)
    assert (log_sigma < -1.2 + 1.2).double().mean().item() == pytest.approx(0.841345, abs=1e-4)
    assert isinstance(default_time_sampling(sde), LogNormal)
    assert default_time_sampling(SDES["vp"]) == Uniform()


@pytest.mark.parametrize("name", SDES)
def test_lognormal_times_reach_below_the_sampler(name):
    """Half of the noise levels lie below the level at half the sampler's floor if training reaches below that
    floor."""
    sde = SDES[name]
    low = max(0.5 * sde.sample_floor, sde.train_floor)
    sigma = (-0.5 * sde.log_snr(torch.tensor(low, dtype=torch.float64))).exp()
    t = LogNormal(mean=sigma.log().item(), std=0.01).quantile(sde, U)
    assert t.median().item() == pytest.approx(low, rel=1e-3)


@pytest.mark.parametrize("name", ["vp", "sub_vp", "ve", "flow"])
def test_log_snr_is_uniform(name):
    sde = SDES[name]
    values = sde.log_snr(UniformLogSnr().quantile(sde, U))
    high, low = log_snr_range(sde)
    torch.testing.assert_close(values, high + (low - high) * U, rtol=1e-6, atol=1e-5)


def test_importance_sampling_has_the_published_closed_form():
    """On VP log(e^B - 1) is uniform, Z = 23.864; on sub-VP 2 log(e^B - 1) - B, Z = 37.679; on VE t."""
    for sde, function, z in (
        (VP(), lambda b: torch.log(torch.expm1(b)), 23.864),
        (SubVP(), lambda b: 2.0 * torch.log(torch.expm1(b)) - b, 37.679),
    ):
        y = function(sde.beta_integral(Importance().quantile(sde, U)))
        assert (y[-1] - y[0]).item() == pytest.approx(z, abs=1e-3)
        torch.testing.assert_close(y.diff(), y.diff()[:1].expand(len(U) - 1), rtol=1e-3, atol=1e-9)
    t = Importance().quantile(VE(), U)
    torch.testing.assert_close(t.diff(), t.diff()[:1].expand(len(U) - 1), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", SDES)
def test_importance_sampling_is_unbiased_and_has_no_variance_left(name):
    """Under the likelihood weighting weight / density is constant: the weight's integral over uniform t."""
    sde = SDES[name]
    t = Importance().quantile(sde, U)
    weight = noise_weight("likelihood", sde, t, data_std=0.5, min_snr_gamma=5.0)
    corrected = Importance().correction(sde, t) * weight
    high, low = log_snr_range(sde)
    torch.testing.assert_close(
        corrected, torch.full_like(t, (high - low) / (sde.ceiling - sde.train_floor)), rtol=1e-6, atol=0
    )

    # for another integrand the corrected mean equals quadrature in uniform t
    def smooth(t):
        return torch.cos(2.0 * t) + t

    plain = smooth(Uniform().quantile(sde, U)).mean().item()
    found = (Importance().correction(sde, t) * smooth(t)).mean().item()
    assert found == pytest.approx(plain, rel=2e-3 if name != "vp_table" else 5e-3)
    for times in (Uniform(), LogNormal(), UniformLogSnr()):
        assert torch.equal(times.correction(sde, t), torch.ones_like(t))


def test_bad_times_are_named():
    with pytest.raises(ValueError, match="std"):
        LogNormal(std=0.0)
    assert math.isfinite(LogNormal().quantile(SDES["vp"], torch.zeros(1, dtype=torch.float64)).item())
