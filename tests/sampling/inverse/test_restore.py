"""Restoring images from a measurement, and redrawing them, against closed forms of Gaussians."""

import math
from itertools import pairwise

import pytest
import torch

from raysde.rng import noise_from
from raysde.sampling.inverse.operators import Grey, Mask
from raysde.sampling.inverse.restore import Replacement, edit, sdedit
from raysde.sampling.sampler import Method, sample
from raysde.sampling.solvers.grids import GRIDS, grid_variable, time_grid
from raysde.sampling.solvers.ode import EdmHeun
from raysde.sampling.solvers.trajectory import Walk
from raysde.sde import VP
from tests.support.gaussian_images import HOLE, SHAPE, Images
from tests.support.oracles import BIAS, SDES, SETTINGS, assert_moments, gaussian_score

FAMILIES = ["vp", "sub_vp", "ve", "edm", "flow"]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("case", SETTINGS)
def test_replacement_is_exact_where_known_and_unknown_are_independent(name, case):
    """For iid channels, given their mean, the posterior is normal around it with covariance s^2 (1 - 1/3)."""
    sde, count, std = SDES[name], 1000, 0.5
    if Method(**SETTINGS[case]).correction is not None and not sde.diffuses:
        pytest.skip("a corrector is refused here")
    known = torch.full((count, 1, 1, 1), 0.9, dtype=torch.float64)
    settings = SETTINGS[case] if case in ("edm", "edm_churn") else {"grid": "log_snr", **SETTINGS[case]}
    if case == "rk45":
        settings = {**settings, "steps": 6}
    out = edit(
        gaussian_score(0.3, std, sde), sde, known.expand(count, 1, 1, 1), Grey(3), method="replacement",
        generator=torch.Generator().manual_seed(0), **settings,
    ).x.flatten(1)  # fmt: skip
    covariance = std**2 * (torch.eye(3, dtype=torch.float64) - 1.0 / 3.0)
    assert_moments(out, torch.full((3,), 0.9, dtype=torch.float64), covariance, bias=BIAS.get(case, 0.01))
    torch.testing.assert_close(out.mean(dim=1), known.flatten())


@pytest.mark.parametrize("case", ["heun", "ancestral", "pc", "unipc", "dpmpp_3m_sde", "rk45", "corrector_only"])
def test_the_known_pixels_are_there_to_the_last_bit(case):
    sde, shape = SDES["ve"], (4, 3, 2, 2)
    known = Mask(HOLE).measure(torch.randn(shape))
    settings = {**SETTINGS[case], "steps": 3}
    for method in ("replacement", "moment_matching"):
        out = edit(gaussian_score(0.3, 0.5, sde), sde, known, Mask(HOLE), method=method, **settings).x
        assert torch.equal(out * HOLE, known)
        assert out[:, :, ~HOLE].abs().min() > 0


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("solver", ["ancestral", "pc", "dpmpp_2m", "unipc", "rk45"])
def test_what_the_score_sees_is_noised_to_its_time(name, solver):
    """From the first time on, H x is normal around alpha y with standard deviation sigma and new noise at each time.

    rk45 also evaluates at the end of an interval, before the replacement there: only the last evaluation counts.
    """
    sde, count, y = SDES[name], 20_000, 0.7
    if solver == "pc" and not sde.diffuses:
        pytest.skip("a corrector is refused here")
    seen, exact = {}, gaussian_score(0.3, 0.5, sde)
    times = sde.time_at(torch.tensor([-6.0, -2.0, 0.0, 2.0, 6.0], dtype=torch.float64))

    def score(x, t):
        if (t == t[0]).all():
            seen[t[0].item()] = x[:, 0].clone()
        return exact(x, t)

    mask = Mask(torch.tensor([True, False]))
    known = mask.measure(torch.full((count, 2), y, dtype=torch.float64))
    project = Replacement(sde, known, mask, noise_from(torch.Generator().manual_seed(1)))
    sample(
        score, sde, known.shape, solver=solver, times=times, project=project, dtype=torch.float64,
        generator=torch.Generator().manual_seed(2),
    )  # fmt: skip
    noises = []
    for t in times[:-1].tolist():
        x = seen[t]
        alpha, sigma = (value.item() for value in sde.marginal(torch.tensor(t, dtype=torch.float64)))
        noises.append((x - alpha * y) / sigma)
        assert abs(noises[-1].mean()) < 4 / math.sqrt(count)
        assert abs(noises[-1].var() - 1.0) < 4 * math.sqrt(2.0 / count)
    for one, two in pairwise(noises):
        assert abs((one * two).mean()) < 4 / math.sqrt(count)


def replacement_recursion(sde, times, solver, data, y, resample):
    """Return mean and covariance [2] of a linear solver's noise-free end on a Gaussian, its first value replaced at
    each time.

    A step is x -> m x + c + noise; replacing sets the first value to alpha y with variance sigma^2, independent of the
    rest; resampling goes back by x -> a x + b z.
    """

    def put(mean, covariance, alpha, sigma):
        mean, covariance = mean.clone(), covariance.clone()
        mean[0], covariance[0], covariance[:, 0] = alpha * y, 0.0, 0.0
        covariance[0, 0] = sigma**2
        return mean, covariance

    eye = torch.eye(2, dtype=torch.float64)
    alphas, sigmas = (value.tolist() for value in sde.marginal(times))
    mean, covariance = put(torch.zeros(2, dtype=torch.float64), sde.prior_std**2 * eye, alphas[0], sigmas[0])
    for index in range(len(times) - 1):
        alpha, sigma, alpha_s, sigma_s = alphas[index], sigmas[index], alphas[index + 1], sigmas[index + 1]
        precision = torch.linalg.inv(alpha**2 * data.covariance + sigma**2 * eye)
        a = alpha / alpha_s
        b2 = sigma**2 - (a * sigma_s) ** 2
        if solver == "ancestral":
            factor, gain, noise = 1.0 / a, b2 / a, b2 * sigma_s**2 / sigma**2
        else:
            factor, gain, noise = 2.0 - a, b2, b2
        matrix = factor * eye - gain * precision
        shift = gain * alpha * precision @ data.mean
        last = index + 2 == len(times)
        for again in range(1 if last else 1 + resample):
            if again:
                mean, covariance = a * mean, a**2 * covariance + b2 * eye
            end = matrix @ mean + shift, matrix @ covariance @ matrix.T
            mean, covariance = put(end[0], end[1] + noise * eye, alpha_s, sigma_s)
    return end


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("solver", ["ancestral", "reverse_diffusion"])
@pytest.mark.parametrize("resample", [0, 2])
def test_replacement_follows_its_recursion(name, solver, resample):
    """Five coarse steps on a correlated Gaussian have the mean and covariance of the exact linear recursion.

    A replacement at the wrong time, a missing one or one with the wrong noise shows, and so does a repeat.
    """
    sde, count, y = SDES[name], 60_000, 0.5
    covariance = torch.tensor([[0.30, 0.21], [0.21, 0.20]], dtype=torch.float64)
    data = Images(torch.tensor([0.7, -0.4], dtype=torch.float64), covariance, (2,))
    times = sde.time_at(torch.linspace(-5.0, 5.0, 6, dtype=torch.float64))
    mask = Mask(torch.tensor([True, False]))
    known = mask.measure(torch.full((count, 2), y, dtype=torch.float64))
    project = Replacement(sde, known, mask, noise_from(torch.Generator().manual_seed(3)))
    out = sample(
        data.score(sde), sde, known.shape, solver=solver, times=times, project=project, resample=resample,
        dtype=torch.float64, generator=torch.Generator().manual_seed(4),
    )  # fmt: skip
    assert out.nfe == 5 + 4 * resample
    assert_moments(out.x, *replacement_recursion(sde, times, solver, data, y, resample))


def test_resampling_brings_replacement_nearer_to_the_conditional():
    """By the recursion alone, without sampling, resampling reduces the error of the mean."""
    sde = VP()
    covariance = torch.tensor([[0.30, 0.21], [0.21, 0.20]], dtype=torch.float64)
    data = Images(torch.tensor([0.7, -0.4], dtype=torch.float64), covariance, (2,))
    y = 1.5
    exact = data.given(Mask(torch.tensor([True, False])), torch.tensor([y, 0.0], dtype=torch.float64)).mean[1]
    times = time_grid(sde, 200, "log_snr")
    errors = [
        abs((replacement_recursion(sde, times, "ancestral", data, y, repeats)[0][1] - exact).item())
        for repeats in (0, 2, 8)
    ]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


@pytest.mark.parametrize("case", ["dpmpp_2m", "dpmpp_3m", "deis", "unipc"])
def test_a_memory_survives_replacements(case):
    """Multistep solvers average over the noise of replacements as DDIM does, which has no memory, in the limit of small
    steps.

    The Gaussian is correlated, so that the unknown value depends on the replaced one.
    """
    sde, count = VP(), 8000
    covariance = torch.tensor([[0.30, 0.21], [0.21, 0.20]], dtype=torch.float64)
    data = Images(torch.tensor([0.7, -0.4], dtype=torch.float64), covariance, (2,))
    mask = Mask(torch.tensor([True, False]))
    known = mask.measure(torch.full((count, 2), 1.5, dtype=torch.float64))
    ends = [
        edit(
            data.score(sde), sde, known, mask, method="replacement", solver=solver, steps=150,
            generator=torch.Generator().manual_seed(seed),
        ).x[:, 1]
        for seed, solver in enumerate(("ddim", SETTINGS[case]["solver"]))
    ]  # fmt: skip
    error = math.sqrt(2.0 * ends[0].var().item() / count)
    assert abs(ends[0].mean() - ends[1].mean()) < 4 * error + 0.01
    assert abs(ends[0].std() - ends[1].std()) < 4 * error / math.sqrt(2.0) + 0.01


@pytest.mark.parametrize("method", ["replacement", "moment_matching"])
@pytest.mark.parametrize("case", ["ancestral", "pc", "unipc", "rk45"])
def test_an_edit_does_not_depend_on_its_batch(method, case):
    sde = SDES["vp"]
    known = Mask(HOLE).measure(torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(0)))
    settings = {**SETTINGS[case], "steps": 4}

    def run(numbers):
        generators = [torch.Generator().manual_seed(number) for number in numbers]
        score = gaussian_score(0.2, 0.5, sde)
        return edit(score, sde, known[numbers], Mask(HOLE), method=method, generator=generators, **settings).x

    torch.testing.assert_close(run([3])[0], run([0, 1, 2, 3, 4])[3], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "culprit"),
    [
        ({"method": "magic"}, "method must be one of moment_matching, replacement"),
        ({"method": "replacement", "noise": 0.1}, "noise=0.1 needs method moment_matching"),
        ({"resample": 2}, "resample=2 belongs to method replacement"),
        ({"noise": -0.1}, "noise"),
        ({"iterations": 0}, "iterations"),
        ({"method": "replacement", "resample": -1}, "resample must not be negative"),
        ({"method": "replacement", "resample": 1, "solver": "unipc"}, "resample cannot repeat steps of unipc"),
        ({"method": "replacement", "resample": 1, "solver": "rk45"}, "resample cannot repeat steps of rk45"),
    ],
)
def test_bad_settings_are_named(settings, culprit):
    with pytest.raises(ValueError, match=culprit):
        edit(gaussian_score(0.0, 0.5, VP()), VP(), torch.zeros(1, *SHAPE), Mask(HOLE), **settings)


@pytest.mark.parametrize("case", ["heun", "euler_maruyama", "pc", "edm_churn", "unipc", "rk45", "dpmpp_3m_sde"])
def test_sdedit_at_its_ends(case):
    """Strength 0 returns the image and 1 is plain sampling, both bit for bit."""
    sde, x0 = SDES["vp"], torch.randn(3, 1, 2, 2)
    score = gaussian_score(0.3, 0.5, sde)
    settings = {**SETTINGS[case], "steps": 5}
    none = sdedit(score, sde, x0, 0.0, **settings)
    assert torch.equal(none.x, x0)
    assert none.nfe == 0
    whole = sdedit(score, sde, x0, 1.0, generator=torch.Generator().manual_seed(0), **settings)
    plain = sample(score, sde, x0.shape, generator=torch.Generator().manual_seed(0), **settings)
    assert torch.equal(whole.x, plain.x)
    assert whole.nfe == plain.nfe


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("strength", [0.3, 0.55])
def test_sdedit_keeps_what_its_noise_leaves(name, strength):
    """SDEdit follows a Gaussian's closed-form flow from alpha x0 + sigma z at a fraction of log-SNR to the floor."""
    sde, count, mean, std = SDES[name], 20_000, 0.3, 0.5
    x0 = torch.full((count, 1), 1.2, dtype=torch.float64)
    out = sdedit(
        gaussian_score(mean, std, sde), sde, x0, strength, generator=torch.Generator().manual_seed(0), solver="heun",
        steps=100, grid="log_snr",
    )  # fmt: skip
    assert out.nfe == 2 * round(strength * 100)
    ends = sde.log_snr(torch.tensor([sde.ceiling, sde.sample_floor], dtype=torch.float64))
    start = sde.time_at(ends[1] - strength * (ends[1] - ends[0]))
    (alpha, alpha_s), (sigma, sigma_s) = sde.marginal(torch.stack([start, torch.tensor(sde.sample_floor).double()]))
    shrink = (((alpha_s * std) ** 2 + sigma_s**2) / ((alpha * std) ** 2 + sigma**2)).sqrt()
    expected, deviation = alpha_s * mean + shrink * alpha * (1.2 - mean), shrink * sigma
    assert abs(out.x.mean() - expected) < 4 * deviation / math.sqrt(count) + 1e-3
    assert abs(out.x.std() - deviation) < 4 * deviation / math.sqrt(2 * count) + 1e-3
    assert abs(expected - mean) > 0.01


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", FAMILIES)
def test_strength_is_a_share_of_the_grids_own_variable(name, grid):
    """The start lies at the given fraction of the grid's variable; the grid's own times follow."""
    sde, there = SDES[name], grid_variable(SDES[name], grid, 7.0)[0]
    method = Method(solver="heun", steps=10, grid=grid)
    times = method.times(sde)
    noisy, clean = there(times[[0, -1]])
    for strength, steps in ((1.0, 10), (0.7, 7), (0.37, 4), (0.1, 1), (0.005, 1), (0.0, 0)):
        rest = method.last_times(sde, strength)
        assert len(rest) == steps + 1
        torch.testing.assert_close(there(rest[0]), clean + strength * (noisy - clean), rtol=1e-6, atol=1e-9)
        assert torch.equal(rest[1:], times[len(times) - steps :])


@pytest.mark.parametrize("strength", [-0.1, 1.1, math.nan])
def test_a_strength_out_of_range_is_named(strength):
    with pytest.raises(ValueError, match="strength must lie between 0 and 1"):
        sdedit(gaussian_score(0.0, 0.5, VP()), VP(), torch.zeros(1, 2), strength)


def test_churn_is_of_the_whole_grid_whatever_part_is_walked():
    """The steps of SDEdit at strength 0.5 add the same noise as the second half of plain sampling's steps.

    From the same x in the middle, with the same draws, both arrive at the same end.
    """
    sde, score = SDES["vp"], gaussian_score(0.3, 0.5, SDES["vp"])
    given = {"solver": "edm", "steps": 8, "grid": "log_snr", "churn": 2.0}
    x0 = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = sdedit(score, sde, x0, 0.5, generator=torch.Generator().manual_seed(5), **given).x
    times, g = Method(**given).times(sde)[4:], torch.Generator().manual_seed(5)
    alpha, sigma = sde.marginal(times[0])
    x = alpha * x0 + sigma * torch.randn(x0.shape, generator=g, dtype=torch.float64)
    walk = Walk(score, sde, times, noise_from(g))
    step = EdmHeun(walk, 1.0, 0.0, math.inf, 1.0)  # gamma 1/4 at 4 steps, as churn 2.0 at 8
    for index in range(4):
        x, mean = step(x, index)
    torch.testing.assert_close(found, mean)
