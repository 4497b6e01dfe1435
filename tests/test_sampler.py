"""Samplers against the exact scores of Gaussians and mixtures."""

import math
from itertools import pairwise

import pytest
import torch

from raysde import randomness
from raysde.sampler import SOLVERS, evaluations, sample, time_grid
from raysde.solvers.correctors import langevin, mean_norm, own_norms
from raysde.solvers.predictors import transition
from tests.oracles import SDES, assert_moments, gaussian, gaussian_score, mixture

COUNT = 10_000
STEPS = {"euler_maruyama": 400, "reverse_diffusion": 400, "pc": 200, "heun": 60}


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_recovers_a_gaussian(name, solver):
    """Mean and covariance to four standard errors and the solver's own bias at this number of steps (1%)."""
    sde, data, g = SDES[name], gaussian(), torch.Generator().manual_seed(0)
    snr = 0.05 if solver == "pc" else 0.16
    out = sample(
        data.score(sde), sde, (COUNT, 2), solver=solver, steps=STEPS[solver], generator=g, dtype=torch.float64,
        grid="log_snr", target_snr=snr,
    )  # fmt: skip
    assert_moments(out.x, data.mean, data.covariance, bias=0.01)


@pytest.mark.parametrize("name", ["vp", "sub_vp", "ve"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_recovers_a_mixture(name, solver):
    sde, data, g = SDES[name], mixture(), torch.Generator().manual_seed(1)
    snr = 0.05 if solver == "pc" else 0.16
    out = sample(
        data.score(sde), sde, (6000, 2), solver=solver, steps=STEPS[solver], generator=g, dtype=torch.float64,
        grid="log_snr", target_snr=snr,
    )  # fmt: skip
    assert_moments(out.x, data.mean, data.covariance, bias=0.02)
    # every component gets its weight
    nearest = torch.cdist(out.x, data.means).argmin(dim=1)
    shares = torch.bincount(nearest, minlength=3).double() / len(out.x)
    allowed = 4 * (data.weights * (1 - data.weights) / len(out.x)).sqrt() + 0.01
    assert ((shares - data.weights).abs() < allowed).all()


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("solver", ["euler_maruyama", "reverse_diffusion"])
def test_follows_the_moment_recursion(name, solver):
    """With ten coarse steps, mean and variance are those of the exact linear recursion: a wrong time shows at once."""
    sde, std, steps, count = SDES[name], 0.5, 10, 100_000
    times = time_grid(sde, steps, "log_snr")
    mean, variance = 0.0, sde.prior_std**2
    last_mean = last_variance = 0.0
    for t, s in pairwise(times):
        alpha, sigma = (value.item() for value in sde.marginal(t))
        slope, pull = -1.0 / (alpha**2 * std**2 + sigma**2), alpha * 0.8
        if solver == "euler_maruyama":
            dt = (t - s).item()
            f, g2 = sde.drift_rate(t).item(), sde.diffusion2(t).item()
            factor, shift, noise = 1.0 - f * dt + g2 * dt * slope, -g2 * dt * slope * pull, g2 * dt
        else:
            a, b2 = (value.item() for value in transition(sde, s, t))
            factor, shift, noise = 2.0 - a + b2 * slope, -b2 * slope * pull, b2
        last_mean, last_variance = factor * mean + shift, factor**2 * variance
        mean, variance = last_mean, last_variance + noise
    out = sample(
        gaussian_score(0.8, std, sde), sde, (count, 1), solver=solver, steps=steps, grid="log_snr",
        generator=torch.Generator().manual_seed(2), dtype=torch.float64,
    )  # fmt: skip
    assert abs(out.x.mean() - last_mean) < 4 * math.sqrt(last_variance / count)
    assert abs(out.x.var() - last_variance) < 4 * last_variance * math.sqrt(2.0 / count)


def test_the_transition_is_the_forward_process():
    """a and b^2 carry the marginal at s to the marginal at t."""
    for sde in SDES.values():
        s, t = torch.tensor(0.3, dtype=torch.float64), torch.tensor(0.35, dtype=torch.float64)
        a, b2 = transition(sde, s, t)
        torch.testing.assert_close(a * sde.alpha(s), sde.alpha(t))
        torch.testing.assert_close(a**2 * sde.sigma2(s) + b2, sde.sigma2(t))


@pytest.mark.parametrize("name", SDES)
def test_heun_has_order_two(name):
    """The error of the flow map of a Gaussian falls with the square of the step."""
    sde, std = SDES[name], 0.5
    errors, counts = [], [10, 20, 40, 80]
    for steps in counts:
        times = time_grid(sde, steps, "log_snr")
        z = sde.prior((64, 1), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        out = sample(
            gaussian_score(0.8, std, sde), sde, (64, 1), solver="heun", steps=steps,
            generator=torch.Generator().manual_seed(3), dtype=torch.float64,
        )  # fmt: skip
        (a1, s1), (a0, s0) = sde.marginal(times[0]), sde.marginal(times[-1])
        spread = torch.sqrt((a0**2 * std**2 + s0**2) / (a1**2 * std**2 + s1**2))
        exact = a0 * 0.8 + spread * (z - a1 * 0.8)
        errors.append((out.x - exact).abs().max().item())
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert orders[-1] == pytest.approx(2.0, abs=0.3)


@pytest.mark.parametrize(("norms", "widening"), [(own_norms, math.sqrt(64 / 62)), (mean_norm, 1.0)])
def test_langevin_keeps_the_distribution(norms, widening):
    """Many corrector steps leave a Gaussian where it is, up to the step-size bias."""
    sde, g = SDES["ve"], torch.Generator().manual_seed(4)
    t = torch.tensor(0.5, dtype=torch.float64)
    exact = (0.5**2 + sde.sigma2(t)).sqrt().item()
    x = 0.3 + exact * torch.randn(4000, 64, dtype=torch.float64, generator=g)
    for _ in range(60):
        noise = lambda x: torch.randn(x.shape, dtype=x.dtype, generator=g)  # noqa: E731
        x = langevin(gaussian_score(0.3, 0.5, sde), sde, x, t, t, 0.1, noise, norms)
    # eta = 2 snr^2 exact^2: an Euler step of size eta inflates the variance by 1 / (1 - eta / (2 exact^2))
    assert x.std().item() == pytest.approx(widening * exact / math.sqrt(1 - 0.01), rel=0.004)
    assert x.mean().item() == pytest.approx(0.3, abs=4 * exact / math.sqrt(x.numel() / 60))


@pytest.mark.parametrize("solver", SOLVERS)
def test_nfe_is_what_was_evaluated(solver):
    sde, calls = SDES["vp"], []
    exact = gaussian_score(0.0, 0.5, sde)

    def counting(x, t):
        calls.append(len(x))
        return exact(x, t)

    out = sample(counting, sde, (3, 2), solver=solver, steps=7, corrector_steps=2)
    assert out.nfe == len(calls) == evaluations(solver, 7, 2)


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_image_does_not_depend_on_its_batch(solver):
    """Per-image generators: image 3 alone is image 3 of five, for a score that treats images alike."""
    sde = SDES["vp"]
    score = gaussian_score(0.2, 0.5, sde)

    def run(numbers):
        generators = [randomness.generator(7, randomness.IMAGE, number) for number in numbers]
        return sample(score, sde, (len(numbers), 1, 4, 4), solver=solver, steps=5, generator=generators).x

    torch.testing.assert_close(run([3])[0], run([0, 1, 2, 3, 4])[3], rtol=1e-6, atol=1e-6)
    assert not torch.equal(run([3])[0], run([4])[0])


def test_grids_end_where_they_should():
    for sde in SDES.values():
        for grid in ("time", "log_snr"):
            times = time_grid(sde, 10, grid)
            assert times[0] == 1.0
            assert times[-1].item() == pytest.approx(sde.sample_floor)
            assert (times.diff() < 0).all()
        steps = sde.log_snr(time_grid(sde, 10, "log_snr")).diff()
        torch.testing.assert_close(steps, steps.mean().expand(10), rtol=1e-6, atol=1e-9)


def test_a_score_may_be_an_object():
    sde = SDES["vp"]

    class Exact:
        score = staticmethod(gaussian_score(0.0, 0.5, sde))

    one = sample(Exact(), sde, (2, 2), steps=3, generator=torch.Generator().manual_seed(0)).x
    two = sample(Exact.score, sde, (2, 2), steps=3, generator=torch.Generator().manual_seed(0)).x
    assert torch.equal(one, two)


def test_bad_settings_are_named():
    sde = SDES["vp"]
    score = gaussian_score(0.0, 0.5, sde)
    with pytest.raises(ValueError, match="steps"):
        sample(score, sde, (1, 2), steps=0)
    with pytest.raises(ValueError, match="solver"):
        sample(score, sde, (1, 2), solver="magic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="grid"):
        sample(score, sde, (1, 2), grid="magic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="generators"):
        sample(score, sde, (2, 2), steps=1, generator=[torch.Generator()])
