"""Samplers against the exact scores of Gaussians and mixtures."""

import math
from itertools import pairwise

import pytest
import torch

from raysde import rng
from raysde.sampling.sampler import Method, sample
from raysde.sampling.solvers import SOLVERS
from raysde.sampling.solvers.correctors import CORRECTORS, annealed_langevin, langevin, mean_norm, own_norms
from raysde.sampling.solvers.grids import GRIDS, check_times, time_grid
from raysde.sampling.solvers.trajectory import Walk
from raysde.sde import SDE, VE
from tests.support.oracles import (
    BIAS,
    FLOWS,
    SDES,
    SETTINGS,
    assert_moments,
    exact_flow,
    fitted_order,
    gaussian,
    gaussian_score,
    mixture,
    normal_std,
)
from tests.support.paths import ROOT

COUNT = 3000
# every solver on every family; schedules of a family differ in numbers alone (`make conformance` runs all)
PAIRS = [(name, case) for name in ("vp", "sub_vp", "ve", "edm", "flow") for case in SETTINGS]
PAIRS += [(name, case) for name in ("vp_cosine", "vp_table", "sub_vp_cosine") for case in ("ancestral", "unipc")]


def drawn(name: str, case: str, data, seed: int, count: int):
    """Return samples of a data distribution by one of the cases, on the grid that suits all SDEs."""
    sde, settings = SDES[name], SETTINGS[case]
    grid = {} if settings["solver"] in ("edm", "rk45") else {"grid": "log_snr"}
    g = torch.Generator().manual_seed(seed)
    return sample(data.score(sde), sde, (count, 2), generator=g, dtype=torch.float64, **{**grid, **settings})


def undefined(name: str, case: str) -> bool:
    return Method(**SETTINGS[case]).correction is not None and not SDES[name].diffuses


@pytest.mark.parametrize(("name", "case"), PAIRS)
def test_recovers_a_gaussian(name, case):
    """Mean and covariance agree to four standard errors and the solver's own bias at this number of steps."""
    if undefined(name, case):
        pytest.skip("a corrector is refused here, see test_correctors_need_a_forward_sde")
    data = gaussian()
    assert_moments(drawn(name, case, data, 0, COUNT).x, data.mean, data.covariance, bias=BIAS.get(case, 0.01))


@pytest.mark.parametrize("name", ["vp", "sub_vp", "ve", "edm", "flow"])
@pytest.mark.parametrize("case", ["euler_maruyama", "ancestral", "pc", "unipc", "dpmpp_2m_sde", "rk45"])
def test_recovers_a_mixture(name, case):
    if undefined(name, case):
        pytest.skip("a corrector is refused here")
    data = mixture()
    x = drawn(name, case, data, 1, 2500).x
    assert_moments(x, data.mean, data.covariance, bias=0.02)
    # every component must get its weight
    nearest = torch.cdist(x, data.means).argmin(dim=1)
    shares = torch.bincount(nearest, minlength=3).double() / len(x)
    allowed = 4 * (data.weights * (1 - data.weights) / len(x)).sqrt() + 0.01
    assert ((shares - data.weights).abs() < allowed).all()


def recursion(sde: SDE, times, solver: str, std: float, pull_to: float) -> tuple[float, float]:
    """Return mean and variance of a stochastic solver's noise-free end on N(pull_to, std^2), step by step."""
    mean, variance = 0.0, sde.prior_std**2
    for t, s in pairwise(times):
        (alpha, sigma), (alpha_s, sigma_s) = ((v.item() for v in sde.marginal(time)) for time in (t, s))
        slope, pull = -1.0 / (alpha**2 * std**2 + sigma**2), alpha * pull_to
        a = alpha / alpha_s
        b2 = sigma**2 - a**2 * sigma_s**2
        if solver == "euler_maruyama":
            dt = (t - s).item()
            f, g2 = sde.drift_rate(t).item(), sde.diffusion2(t).item()
            factor, gain, noise = 1.0 - f * dt, g2 * dt, g2 * dt
        elif solver == "reverse_diffusion":
            factor, gain, noise = 2.0 - a, b2, b2
        else:
            factor, gain, noise = 1.0 / a, b2 / a, b2 * sigma_s**2 / sigma**2
        factor, shift = factor + gain * slope, -gain * slope * pull
        last_mean, last_variance = factor * mean + shift, factor**2 * variance
        mean, variance = last_mean, last_variance + noise
    return last_mean, last_variance


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("solver", ["euler_maruyama", "reverse_diffusion", "ancestral"])
def test_follows_the_moment_recursion(name, solver):
    """With ten coarse steps, mean and variance follow the exact linear recursion; a wrong time shows at once."""
    sde, std, steps, count = SDES[name], 0.5, 10, 100_000
    last_mean, last_variance = recursion(sde, time_grid(sde, steps, "log_snr"), solver, std, 0.8)
    out = sample(
        gaussian_score(0.8, std, sde), sde, (count, 1), solver=solver, steps=steps, grid="log_snr",
        generator=torch.Generator().manual_seed(2), dtype=torch.float64,
    )  # fmt: skip
    assert abs(out.x.mean() - last_mean) < 4 * math.sqrt(last_variance / count)
    assert abs(out.x.var() - last_variance) < 4 * last_variance * math.sqrt(2.0 / count)


def walk_at(sde, *times, noise=torch.randn_like, score=None):
    score = score or gaussian_score(0.3, 0.5, sde)
    return Walk(score, sde, torch.tensor(times, dtype=torch.float64), noise)


def test_the_transition_is_the_forward_process():
    """The transition's a and b^2 carry the marginal at s to the marginal at t."""
    for sde in SDES.values():
        walk = walk_at(sde, 0.35, 0.3)
        a, b2 = walk.transition(0)
        s, t = torch.tensor(0.3, dtype=torch.float64), torch.tensor(0.35, dtype=torch.float64)
        assert a * sde.alpha(s).item() == pytest.approx(sde.alpha(t).item())
        assert a**2 * sde.sigma2(s).item() + b2 == pytest.approx(sde.sigma2(t).item())


def test_ancestral_is_songs_for_ve_and_hos_for_vp():
    """The ancestral step has the published form on VE and VP.

    VE: x + (s_i^2 - s_{i-1}^2) score + sqrt(s_{i-1}^2 (s_i^2 - s_{i-1}^2)) / s_i z; VP: (x + b score) / sqrt(1 - b)
    with DDPM's posterior deviation sqrt((1 - abar_{i-1}) / (1 - abar_i) b).
    """
    x, z = torch.tensor([[0.7, -0.2]], dtype=torch.float64), torch.tensor([[0.4, 1.1]], dtype=torch.float64)
    constant = lambda x, t: torch.full_like(x, 0.9)  # noqa: E731
    ve = SDES["ve"]
    walk = walk_at(ve, 0.5, 0.48, noise=lambda x: z, score=constant)
    big, small = walk.sigma
    expected = x + (big**2 - small**2) * 0.9 + math.sqrt(small**2 * (big**2 - small**2)) / big * z
    torch.testing.assert_close(SOLVERS["ancestral"].start(walk)(x, 0)[0], expected)
    vp = SDES["vp_table"]
    walk = walk_at(vp, 0.500, 0.499, noise=lambda x: z, score=constant)
    before, after = (vp.alpha2(torch.tensor(t, dtype=torch.float64)).item() for t in (0.499, 0.500))
    beta = 1.0 - after / before
    deviation = math.sqrt((1.0 - before) / (1.0 - after) * beta)
    expected = (x + beta * 0.9) / math.sqrt(1.0 - beta) + deviation * z
    torch.testing.assert_close(SOLVERS["ancestral"].start(walk)(x, 0)[0], expected)


@pytest.mark.parametrize("name", SDES)
def test_ddim_joins_euler_and_ancestral(name):
    """DDIM with eta = 0 is Euler's step of the flow, with eta = 1 the ancestral step, with the same noise."""
    sde, start = SDES[name], torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    score = mixture().score(sde)
    for eta, other in ((0.0, "euler"), (1.0, "ancestral")):
        runs = [
            sample(
                score, sde, (6, 2), solver=solver, steps=9, start=sde.prior_std * start, dtype=torch.float64,
                grid="log_snr", generator=torch.Generator().manual_seed(1), **extra,
            ).x
            for solver, extra in (("ddim", {"eta": eta}), (other, {}))
        ]  # fmt: skip
        torch.testing.assert_close(*runs, rtol=1e-7, atol=1e-9)


def test_edm_without_churn_is_heun():
    sde = SDES["vp"]
    runs = [
        sample(
            mixture().score(sde), sde, (6, 2), solver=solver, steps=9, dtype=torch.float64, grid="edm",
            generator=torch.Generator().manual_seed(1), **extra,
        ).x
        for solver, extra in (("edm", {}), ("heun", {}), ("edm", {"churn": 40.0, "churn_high": 0.0}))
    ]  # fmt: skip
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("name", ["vp", "edm", "flow"])
def test_churn_raises_the_noise_to_where_it_says(name):
    """After a step's noise x has the marginal at sigma (1 + gamma), gamma = churn / steps, and the score is evaluated
    there."""
    sde, asked = SDES[name], []
    exact = gaussian_score(0.0, 0.5, sde)

    def score(x, t):
        asked.append((t[0].item(), x.square().mean().item()))
        return exact(x, t)

    times = sde.time_at(torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0], dtype=torch.float64))
    alpha, sigma = sde.marginal(times[0])
    start = torch.sqrt(alpha**2 * 0.25 + sigma**2) * torch.randn(
        200_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(4)
    )
    sample(
        score, sde, start.shape, solver="edm", times=times, start=start, churn=1.2, dtype=torch.float64,
        generator=torch.Generator().manual_seed(5),
    )  # fmt: skip
    t, power = asked[0]
    raised = [value.item() for value in sde.marginal(torch.tensor(t, dtype=torch.float64))]
    assert raised[1] / raised[0] == pytest.approx(1.3 * (sigma / alpha).item())
    expected = raised[0] ** 2 * 0.25 + raised[1] ** 2
    assert abs(power - expected) < 4 * expected * math.sqrt(2.0 / 200_000)


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("case", FLOWS)
def test_flows_carry_a_gaussian_to_its_exact_place(name, case):
    """Each point, not only the moments, arrives where the closed form of a Gaussian's flow says."""
    sde = SDES[name]
    z = sde.prior((32, 1), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    grid = {} if case == "edm" else {"grid": "log_snr"}
    settings = {**grid, **SETTINGS[case], "steps": 400}
    out = sample(gaussian_score(0.8, 0.5, sde), sde, (32, 1), start=z, dtype=torch.float64, **settings)
    allowed = {1: 0.03, 2: 2e-3}.get(FLOWS[case], 1e-5)
    assert (out.x - exact_flow(sde, z, 0.8, 0.5)).abs().max() < allowed


@pytest.mark.parametrize("name", ["vp", "flow"])
@pytest.mark.parametrize("case", FLOWS)
def test_order_of_convergence(name, case):
    """On a mixture, whose flow is nonlinear, the fitted order is right to 0.3 (all SDEs in `make conformance`)."""
    assert fitted_order(SDES[name], case) == pytest.approx(FLOWS[case], abs=0.3)


@pytest.mark.parametrize(("norms", "widening"), [(own_norms, math.sqrt(64 / 62)), (mean_norm, 1.0)])
def test_langevin_keeps_the_distribution(norms, widening):
    """Many corrector steps keep a Gaussian's distribution, up to the step-size bias."""
    sde, g = SDES["ve"], torch.Generator().manual_seed(4)
    t = torch.tensor(0.5, dtype=torch.float64)
    exact = (0.5**2 + sde.sigma2(t)).sqrt().item()
    x = 0.3 + exact * torch.randn(4000, 64, dtype=torch.float64, generator=g)
    walk = walk_at(sde, 0.51, 0.5, noise=lambda x: torch.randn(x.shape, dtype=x.dtype, generator=g))
    for _ in range(60):
        x, _ = langevin(walk, x, 1, 0.1, norms)
    # eta = 2 snr^2 exact^2: an Euler step of size eta inflates the variance by 1 / (1 - eta / (2 exact^2))
    assert x.std().item() == pytest.approx(widening * exact / math.sqrt(1 - 0.01), rel=0.004)
    assert x.mean().item() == pytest.approx(0.3, abs=4 * exact / math.sqrt(x.numel() / 60))


@pytest.mark.parametrize("corrector", CORRECTORS)
def test_corrector_steps_have_the_published_size(corrector):
    """The step sizes are VP's eta = 2 (1 - beta_i) (r |z| / |score|)^2 as in Song's code, and annealed 2 (1 - beta_i)
    (r sigma)^2.

    beta_i is that of the step that led to this time; the next step is far longer.
    """
    sde, r = SDES["vp_table"], 0.16
    score = torch.tensor([[0.6, -0.8]], dtype=torch.float64)
    walk = walk_at(sde, 0.5, 0.499, 0.4, noise=torch.ones_like, score=lambda x, t: score.expand_as(x))
    x = torch.zeros(1, 2, dtype=torch.float64)
    ratio = sde.alpha2(torch.tensor([0.5, 0.499], dtype=torch.float64))
    keep = (ratio[0] / ratio[1]).item()
    size = r * math.sqrt(2.0) / 1.0 if corrector == "langevin" else r * walk.sigma[1]
    eta = 2.0 * keep * size**2
    noisy, mean = CORRECTORS[corrector](walk, x, 1, r, own_norms)
    torch.testing.assert_close(mean, eta * score)
    torch.testing.assert_close(noisy, eta * score + math.sqrt(2.0 * eta))


def test_annealed_langevin_keeps_the_distribution():
    sde, g = SDES["vp"], torch.Generator().manual_seed(4)
    t = torch.tensor(0.4, dtype=torch.float64)
    alpha, sigma = (v.item() for v in sde.marginal(t))
    spread = math.sqrt((0.5 * alpha) ** 2 + sigma**2)
    x = 0.3 * alpha + spread * torch.randn(4000, 16, dtype=torch.float64, generator=g)
    walk = walk_at(sde, 0.4001, 0.4, noise=lambda x: torch.randn(x.shape, dtype=x.dtype, generator=g))
    for _ in range(60):
        x, _ = annealed_langevin(walk, x, 1, 0.1, own_norms)
    eta = 2.0 * (0.1 * sigma) ** 2
    assert x.std().item() == pytest.approx(spread / math.sqrt(1 - eta / (2 * spread**2)), rel=0.006)


@pytest.mark.parametrize("case", SETTINGS)
def test_nfe_is_what_was_evaluated(case):
    sde, calls = SDES["vp"], []
    exact = gaussian_score(0.0, 0.5, sde)

    def counting(x, t):
        calls.append(len(x))
        return exact(x, t)

    settings = {**SETTINGS[case], "steps": 7, "denoise": True}
    if "target_snr" in settings:
        settings["corrector_steps"] = 2
    out = sample(counting, sde, (3, 2), **settings)
    assert out.nfe == len(calls)
    assert Method(**settings).nfe in (None, out.nfe)
    assert (Method(**settings).nfe is None) == (settings["solver"] == "rk45")


@pytest.mark.parametrize("case", SETTINGS)
def test_an_image_does_not_depend_on_its_batch(case):
    """With per-image generators image 3 alone equals image 3 of five, for a score that treats images alike."""
    sde = SDES["vp"]
    score = gaussian_score(0.2, 0.5, sde)

    def run(numbers):
        generators = [rng.generator(7, rng.IMAGE, number) for number in numbers]
        settings = {**SETTINGS[case], "steps": 5}
        return sample(score, sde, (len(numbers), 1, 4, 4), generator=generators, **settings).x

    torch.testing.assert_close(run([3])[0], run([0, 1, 2, 3, 4])[3], rtol=1e-5, atol=1e-5)
    assert not torch.equal(run([3])[0], run([4])[0])


@pytest.mark.parametrize("case", SETTINGS)
def test_float32_gives_what_float64_gives(case):
    """The same start and noise in both types end within float32's rounding of each other."""
    sde = SDES["ve"]
    z = torch.randn(16, 3, 2, generator=torch.Generator().manual_seed(0))
    noises = [torch.randn(16, 3, 2, generator=torch.Generator().manual_seed(9 + i)) for i in range(400)]
    results = []
    for dtype in (torch.float32, torch.float64):
        drawn_noise = iter(noises)
        settings = {**SETTINGS[case], "steps": 12}
        method = Method(**settings)
        score = gaussian_score(0.2, 0.5, sde)
        if method.solver == "rk45":
            results.append(sample(score, sde, z.shape, start=sde.prior_std * z.to(dtype), dtype=dtype, **settings).x)
            continue
        walk = Walk(score, sde, method.times(sde), lambda x, n=drawn_noise, d=dtype: next(n).to(d))
        step = method.kind.start(walk, **{name: getattr(method, name) for name in method.kind.settings})
        x = sde.prior_std * z.to(dtype)
        for index in range(12):
            x, mean = step(x, index)
        results.append(mean)
    assert results[0].dtype == torch.float32
    assert (results[0].double() - results[1]).abs().max() < 2e-4 * results[1].abs().max()


@pytest.mark.parametrize("shape", [(3,), (3, 5), (3, 1, 4, 6), (2, 3, 4, 2, 2)])
@pytest.mark.parametrize("case", ["pc", "unipc", "edm_churn", "rk45", "dpmpp_3m_sde"])
def test_vectors_to_video(shape, case):
    """For any shape with one Gaussian for all coordinates, each coordinate follows the one-dimensional flow or noise."""
    sde, out = SDES["vp"], None
    score = gaussian_score(0.2, 0.5, sde)
    generators = [rng.generator(0, rng.IMAGE, i) for i in range(shape[0])]
    out = sample(
        score, sde, shape, steps=6, generator=generators, **{k: v for k, v in SETTINGS[case].items() if k != "steps"}
    )
    assert out.x.shape == shape
    flat = sample(
        lambda x, t: score(x, t), sde, (shape[0], math.prod(shape[1:])), steps=6,
        generator=[rng.generator(0, rng.IMAGE, i) for i in range(shape[0])],
        **{k: v for k, v in SETTINGS[case].items() if k != "steps"},
    )  # fmt: skip
    torch.testing.assert_close(out.x.reshape(shape[0], -1), flat.x, rtol=1e-5, atol=1e-5)


def test_the_tweedie_step_removes_the_last_noise():
    """E[x0 | x] at the floor is exactly c for data that all equal c."""
    sde, c = SDES["vp"], 0.7

    def score(x, t):
        alpha, sigma = (v[:, None] for v in sde.marginal(t))
        return -(x - alpha * c) / sigma**2

    out = sample(score, sde, (5, 2), solver="heun", steps=10, denoise=True, dtype=torch.float64)
    torch.testing.assert_close(out.x, torch.full((5, 2), c, dtype=torch.float64))
    assert out.nfe == 21


def test_grids_end_where_they_should():
    for sde in SDES.values():
        for grid in GRIDS:
            times = time_grid(sde, 10, grid)
            assert times[0] == sde.ceiling
            assert times[-1].item() == pytest.approx(sde.sample_floor)
            assert (times.diff() < 0).all()
        steps = sde.log_snr(time_grid(sde, 10, "log_snr")).diff()
        torch.testing.assert_close(steps, steps.mean().expand(10), rtol=1e-6, atol=1e-9)
        roots = time_grid(sde, 10, "quadratic").sqrt().diff()
        torch.testing.assert_close(roots, roots.mean().expand(10), rtol=1e-9, atol=1e-12)


SONGS = ("euler_maruyama", "reverse_diffusion", "ancestral", "none", "pc")


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_each_solver_walks_the_grid_it_was_published_with(name, solver):
    """Each solver's default grid is its paper's: uniform time for Song et al., noise levels for Karras et al., log-SNR
    for the later ones (Lu et al.)."""
    sde = SDES[name]
    times = Method(solver=solver, steps=12, corrector="langevin" if solver == "none" else None).times(sde)
    karras = solver == "edm" or (solver in SONGS and name == "edm")
    uniform = (-0.5 * sde.log_snr(times) / 7.0).exp() if karras else times if solver in SONGS else sde.log_snr(times)
    torch.testing.assert_close(uniform.diff(), ((uniform[-1] - uniform[0]) / 12).expand(12), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", SDES)
def test_a_grid_of_ones_own_lies_within_the_process(name):
    """Explicit times may start at the ceiling, whose noise the prior has, not above; time 0 has no noise except on VE."""
    sde = SDES[name]
    assert check_times(torch.tensor([sde.ceiling, 0.5 * sde.ceiling], dtype=torch.float64), sde)[0] == sde.ceiling
    for times in ([sde.ceiling * 1.0001, 0.5], [2.0, 0.5], [sde.ceiling, 0.0], [sde.ceiling, -0.1]):
        if times[-1] == 0.0 and isinstance(sde, VE):
            continue
        with pytest.raises(ValueError, match=f"at or below the SDE's ceiling {sde.ceiling}"):
            check_times(torch.tensor(times, dtype=torch.float64), sde)


def test_the_edm_grid_is_karras():
    """On EDM sigma_i = (smax^(1/7) + i / N (smin^(1/7) - smax^(1/7)))^7 from 80 to 0.002 (Karras et al. eq. 5)."""
    sde = SDES["edm"]
    share = torch.linspace(0.0, 1.0, 18, dtype=torch.float64)
    expected = (80.0 ** (1 / 7) + share * (0.002 ** (1 / 7) - 80.0 ** (1 / 7))) ** 7
    torch.testing.assert_close(sde.sigma(time_grid(sde, 17, "edm")), expected)


def test_a_score_may_be_an_object():
    sde = SDES["vp"]

    class Exact:
        score = staticmethod(gaussian_score(0.0, 0.5, sde))

    one = sample(Exact(), sde, (2, 2), steps=3, generator=torch.Generator().manual_seed(0)).x
    two = sample(Exact.score, sde, (2, 2), steps=3, generator=torch.Generator().manual_seed(0)).x
    assert torch.equal(one, two)


def test_correctors_need_a_forward_sde():
    sde = SDES["flow"]
    with pytest.raises(ValueError, match="langevin is undefined on Flow"):
        sample(gaussian_score(0.0, 0.5, sde), sde, (1, 2), solver="pc")


@pytest.mark.parametrize(
    ("settings", "culprit"),
    [
        ({"steps": 0}, "steps"),
        ({"solver": "magic"}, "solver"),
        ({"grid": "magic"}, "grid"),
        ({"corrector": "magic"}, "corrector"),
        ({"solver": "unipc", "corrector": "langevin"}, "langevin cannot follow unipc"),
        ({"solver": "none"}, "solver none"),
        ({"eta": 1.5}, "eta"),
        ({"order": 4}, "order"),
        ({"rtol": 0.0}, "rtol"),
        ({"churn": -1.0}, "churn"),
        ({"eta": 1.0}, "eta=1.0 has no effect with unipc: only solver=ddim"),
        ({"solver": "unipc", "churn": 40.0}, "churn=40.0 has no effect with unipc: only solver=edm"),
        ({"solver": "ddim", "order": 2}, "order=2 has no effect with ddim: only solver=deis or unipc"),
        ({"rtol": 1e-3}, "rtol=0.001 has no effect with unipc: only solver=rk45"),
        ({"rho": 5.0}, "rho=5.0 has no effect with unipc: only grid=edm"),
        ({"target_snr": 0.1}, "target_snr=0.1 has no effect with unipc: only correctors"),
        ({"corrector_steps": 2, "corrector": "none"}, "corrector_steps=2 has no effect"),
        ({"rho": 0.0}, "rho"),
        ({"corrector_steps": -1}, "corrector_steps"),
        ({"times": torch.tensor([1.2, 0.5])}, "ceiling 1.0"),
        ({"times": torch.tensor([1.0, 0.0])}, "above 0"),
        ({"times": torch.tensor([0.2, 0.5])}, "times must fall"),
        ({"start": torch.zeros(3, 2)}, "start has shape"),
        ({"generator": [torch.Generator()] * 2}, "generators"),
    ],
)
def test_bad_settings_are_named(settings, culprit):
    sde = SDES["vp"]
    with pytest.raises(ValueError, match=culprit):
        sample(gaussian_score(0.0, 0.5, sde), sde, (1, 2), **settings)


MEMORY = ("rk45", "dpmpp_2m", "dpmpp_3m", "dpmpp_2m_sde", "dpmpp_3m_sde", "deis", "unipc")


@pytest.mark.parametrize("solver", SOLVERS)
def test_correctors_follow_solvers_without_memory(solver):
    """A multistep solver's earlier predictions, and rk45's step size, are valid only for the x that it reached itself."""
    if solver in MEMORY:
        with pytest.raises(ValueError, match=f"corrector langevin cannot follow {solver}"):
            Method(solver=solver, corrector="langevin", corrector_steps=1)
    else:
        assert Method(solver=solver, corrector="langevin", corrector_steps=1).correction == "langevin"


@pytest.mark.parametrize("solver", [solver for solver in SOLVERS if solver != "none"])
def test_what_is_returned_is_not_projected(solver):
    """The result is not projected, since the noise of a projection would remain in the image."""
    sde = SDES["vp"]
    times = time_grid(sde, 4, "log_snr")
    spoil = lambda x, t: torch.full_like(x, math.nan) if t == times[-1] else x  # noqa: E731
    given = {"solver": solver, "times": times, "dtype": torch.float64, "project": spoil}
    end = sample(gaussian_score(0.1, 0.5, sde), sde, (2, 2), generator=torch.Generator().manual_seed(0), **given).x
    assert end.isfinite().all()


def test_rk45_takes_each_tolerance_for_what_it_is():
    """rtol scales with x and atol does not.

    x' is linear in x for data of mean 0: x and atol scaled by a thousandth take the same steps, and so does x of any
    size without atol; without rtol a smaller x takes fewer.
    """
    sde, start = SDES["vp"], torch.randn(1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def nfe(scale, rtol, atol):
        return sample(
            gaussian_score(0.0, 0.5, sde), sde, (1, 3), solver="rk45", rtol=rtol, atol=atol, start=scale * start,
            dtype=torch.float64,
        ).nfe  # fmt: skip

    assert nfe(1.0, 1e-4, 1e-6) == nfe(1e-3, 1e-4, 1e-9)
    assert nfe(1.0, 1e-4, 1e-15) == nfe(1e-3, 1e-4, 1e-15)
    assert nfe(1e-3, 1e-15, 1e-6) < nfe(1.0, 1e-15, 1e-6)


def times_asked(**settings) -> tuple[list[float], list[float]]:
    """Return the times at which a sampler evaluates the score, and its grid."""
    sde, asked = SDES["vp"], []

    def score(x, t):
        asked.append(t[0].item())
        return -x

    grid = time_grid(sde, 3, "time")
    sample(score, sde, (2, 2), times=grid, dtype=torch.float64, **settings)
    return asked, grid.tolist()


def test_the_score_is_asked_where_x_is():
    """A predictor evaluates the score at its start, a corrector where the predictor arrived, Tweedie's step at the end."""
    asked, (a, b, c, end) = times_asked(solver="pc", corrector_steps=2, denoise=True)
    assert asked == pytest.approx([a, b, b, b, c, c, c, end])
    asked, (a, b, c, end) = times_asked(solver="none", corrector="langevin")
    assert asked == pytest.approx([b, c, end])
    asked, (a, b, c, end) = times_asked(solver="heun")
    assert asked == pytest.approx([a, b, b, c, c, end])
    for solver in ("euler", "dpmpp_3m", "unipc", "deis", "ancestral"):
        asked, (a, b, c, end) = times_asked(solver=solver)
        assert asked == pytest.approx([a, b, c])


@pytest.mark.parametrize("solver", ["euler_maruyama", "reverse_diffusion", "ancestral", "dpmpp_2m_sde"])
def test_the_last_step_brings_no_noise(solver):
    """One step from far away gives the same result with any noise; two steps do not."""
    sde, start = SDES["vp"], torch.ones(4, 2, dtype=torch.float64)

    def ends(*times):
        grid = torch.tensor(times, dtype=torch.float64)
        return [
            sample(
                gaussian_score(0.2, 0.5, sde), sde, (4, 2), solver=solver, times=grid, start=start,
                dtype=torch.float64, generator=torch.Generator().manual_seed(seed),
            ).x
            for seed in (0, 1)
        ]  # fmt: skip

    assert torch.equal(*ends(0.8, 0.5))
    assert not torch.equal(*ends(0.8, 0.5, 0.3))


def karras(denoise, sigmas, x, noise, churn, low, high, scale):
    """Run algorithm 2 of Karras et al. 2022 as printed, with given random numbers; it ends at the last noise level."""
    steps = len(sigmas) - 1
    for index, (now, after) in enumerate(pairwise(sigmas)):
        gamma = min(churn / steps, math.sqrt(2.0) - 1.0) if low <= now <= high else 0.0
        hat = now + gamma * now
        if gamma > 0.0:
            x = x + math.sqrt(hat**2 - now**2) * scale * noise[index]
        slope = (x - denoise(x, hat)) / hat
        reached = x + (after - hat) * slope
        x = x + (after - hat) * 0.5 * (slope + (reached - denoise(reached, after)) / after)
    return x


@pytest.mark.parametrize(
    ("churn", "low", "high", "scale"),
    [
        (4.0, 0.0, 50.0, 1.0),
        (4.0, 0.3, 50.0, 1.0),
        (4.0, 0.05, 10.0, 1.3),
        (40.0, 0.0, 50.0, 0.8),
        (0.0, 0.0, 50.0, 1.0),
    ],
)
def test_edm_is_algorithm_2(churn, low, high, scale):
    """Every setting applies at its noise levels: gamma is churn / steps, at most sqrt(2) - 1."""
    sde, steps = SDES["edm"], 12
    sigmas = torch.logspace(math.log10(50.0), -2.0, steps + 1, dtype=torch.float64)
    g = torch.Generator().manual_seed(0)
    start = 50.0 * torch.randn(8, 3, dtype=torch.float64, generator=g)

    def denoise(x, sigma):  # for data N(0.3, 0.5^2)
        return (0.25 * x + sigma**2 * 0.3) / (0.25 + sigma**2)

    def score(x, t):
        level = sde.sigma(t)[:, None]
        return (denoise(x, level) - x) / level**2

    drawn_noise = {}
    own = torch.Generator().manual_seed(1)
    for index in range(steps):
        # the sampler draws noise only where it adds some
        if churn > 0.0 and low <= sigmas[index] <= high:
            drawn_noise[index] = torch.randn(8, 3, dtype=torch.float64, generator=own)
    found = sample(
        score, sde, start.shape, solver="edm", times=sde.time_at(-2.0 * sigmas.log()), start=start, dtype=torch.float64,
        generator=torch.Generator().manual_seed(1), churn=churn, churn_low=low, churn_high=high, churn_noise=scale,
    )  # fmt: skip
    expected = karras(denoise, sigmas.tolist(), start, drawn_noise, churn, low, high, scale)
    torch.testing.assert_close(found.x, expected, rtol=1e-9, atol=1e-9)
    assert found.nfe == 2 * steps


def test_churn_does_not_leave_the_process():
    """At the highest noise level x gets no noise, and the score is never evaluated beyond it."""
    sde, asked = SDES["vp"], []
    exact = gaussian_score(0.0, 0.5, sde)

    def score(x, t):
        asked.append(t[0].item())
        return exact(x, t)

    sample(score, sde, (4, 2), solver="edm", steps=6, churn=60.0, generator=torch.Generator().manual_seed(0))
    assert max(asked) <= sde.ceiling
    assert asked[0] == sde.ceiling


def test_tolerances_reach_the_solver_by_their_names(monkeypatch):
    seen = []

    def noted(score, sde, x, start, end, *, rtol, atol):
        seen.append((start, end, rtol, atol))
        return x, 6

    monkeypatch.setattr("raysde.sampling.sampler.probability_flow", noted)
    sde = SDES["vp"]
    settings = {"solver": "rk45", "rtol": 1e-2, "atol": 1e-7}
    assert sample(None, sde, (2, 2), **settings).nfe == 6
    assert seen == [(sde.ceiling, sde.sample_floor, 1e-2, 1e-7)]
    seen.clear()
    times = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)
    sample(None, sde, (2, 2), times=times, project=lambda x, t: x, **settings)
    assert seen == [(0.9, 0.5, 1e-2, 1e-7), (0.5, 0.1, 1e-2, 1e-7)]


@pytest.mark.parametrize(
    ("name", "solver", "expected"),
    [("vp", "ancestral", "time"), ("ve", "pc", "time"), ("flow", "euler_maruyama", "time"), ("edm", "ancestral", "edm"),
     ("edm", "euler_maruyama", "edm"), ("vp", "edm", "edm"), ("edm", "heun", "log_snr"), ("ve", "unipc", "log_snr")],
)  # fmt: skip
def test_each_solver_walks_the_grid_that_suits_it(name, solver, expected):
    """Default grids: stochastic steps use the SDE's, edm Karras', fast solvers log-SNR; an explicit grid always wins."""
    assert Method(solver=solver).grid_for(SDES[name]) == expected
    assert Method(solver=solver, grid="quadratic").grid_for(SDES[name]) == "quadratic"


def test_defaults_are_the_published_ones():
    """Defaults are Song et al.'s r for VE (table 5), Karras et al.'s rho, no churn at any level, and S_noise = 1."""
    method = Method()
    assert (method.target_snr, method.rho, method.corrector_steps) == (0.16, 7.0, 1)
    assert (method.churn, method.churn_low, method.churn_high, method.churn_noise) == (0.0, 0.0, math.inf, 1.0)
    assert (method.eta, method.order, method.denoise) == (0.0, 3, False)


def documented(heading: str) -> list[dict[str, str]]:
    """Return the first table under a heading of docs/choosing.md."""
    page = (ROOT / "docs" / "choosing.md").read_text()
    table = page.partition(f"### {heading}\n")[2].partition("\n|")[2].partition("\n\n")[0]
    lines = ("|" + table).splitlines()
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


PROCESSES = ("vp", "sub_vp", "ve", "edm", "flow")


def test_the_default_is_the_best_of_the_table():
    """The default solver has the lowest error of all with a fixed cost; the page's numbers are recomputed to the last
    digit."""
    furthest = {}
    for row in documented("The default"):
        method = Method(solver=row["solver"], steps=int(row["steps"]))
        found = [normal_std(SDES[name], solver=method.solver, steps=method.steps) for name in PROCESSES]
        assert [row[name] for name in PROCESSES] == [f"{value:.3f}" for value in found], row
        furthest[method] = max(abs(value - 1.0) for value in found)
        assert row["furthest from 1"] == f"{furthest[method]:.3f}"
        assert int(row["evaluations"]) == method.nfe
    affordable = {method: value for method, value in furthest.items() if method.nfe <= 20}
    # rk45's cost is not fixed, none takes no steps, and pc's steps depend on the norms of the batch
    assert {method.solver for method in affordable} == SOLVERS.keys() - {"rk45", "none", "pc"}
    assert Method() == min(affordable, key=affordable.get)


@pytest.mark.parametrize(
    "asked",
    [
        {"corrector": "langevin", "target_snr": 0.05},
        {"corrector": "annealed_langevin", "target_snr": 0.05, "corrector_steps": 2},
        {"resample": 2, "project": lambda x, t: 0.9 * x},
    ],
)
def test_what_needs_a_solver_without_memory_gets_one(asked):
    def drawn(**settings):
        score, g = gaussian_score(0.3, 0.5, SDES["vp"]), torch.Generator().manual_seed(2)
        return sample(score, SDES["vp"], (5, 3), steps=7, generator=g, **settings).x

    assert torch.equal(drawn(**asked), drawn(solver="heun", **asked))
    assert torch.equal(drawn(corrector="none"), drawn(solver="unipc"))
    with pytest.raises(ValueError, match="unipc"):
        drawn(solver="unipc", **asked)
