"""Editing against closed forms: Gaussians given some of their pixels, means over channels or means of blocks."""

import dataclasses
import math
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch

from raysde.conditioning.conditioner import Encoded
from raysde.inference.edit import between
from raysde.inference.model import Model
from raysde.models.autoencoder import LatentSpec
from raysde.rng import noise_from
from raysde.sampling.inverse.operators import AveragePool, Chain, Grey, Mask, replaced
from raysde.sampling.inverse.posterior import MomentMatching, conjugate_gradients
from raysde.sampling.inverse.restore import Replacement, edit, sdedit
from raysde.sampling.sampler import Method, sample
from raysde.sampling.solvers.grids import GRIDS, time_grid, variable
from raysde.sampling.solvers.ode import EdmHeun
from raysde.sampling.solvers.trajectory import Walk
from raysde.sde import VP
from tests.support.exact_models import KEPT, exact_model
from tests.support.models import CAPTIONS, caption_spec, filled_model
from tests.support.oracles import BIAS, SDES, SETTINGS, assert_moments, gaussian_score

FAMILIES = ["vp", "sub_vp", "ve", "edm", "flow"]
SHAPE = (3, 2, 2)
SIZE = math.prod(SHAPE)
HOLE = torch.tensor([[True, False], [False, True]])
PROJECTIONS = {
    "mask": Mask(HOLE),
    "grey": Grey(3),
    "pool": AveragePool(2),
    "grey pool": Chain(Grey(3), AveragePool(2)),
    "some means": Chain(AveragePool(2), Mask(torch.tensor([True, False, True])[:, None, None])),
}


def matrix(projection, shape=SHAPE) -> torch.Tensor:
    """H as a matrix, [measurements, values]."""
    basis = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    return projection.measure(basis).flatten(1).T


@dataclasses.dataclass(frozen=True)
class Images:
    """Gaussian images: mean [D] and covariance [D, D] of their values."""

    mean: torch.Tensor
    covariance: torch.Tensor
    shape: tuple[int, ...]

    def score(self, sde):
        """In closed form, for one time a row; differentiable."""
        spread, basis = torch.linalg.eigh(self.covariance)
        mean, spread, basis = (value.double() for value in (self.mean, spread, basis))

        def exact(x, t):
            alpha, sigma = (value[:, None] for value in sde.marginal(t))
            y = (x.flatten(1) - alpha * mean) @ basis
            return -((y / (alpha**2 * spread + sigma**2)) @ basis.T).reshape(x.shape)

        return exact

    def given(self, projection, y, noise=0.0) -> "Images":
        """The conditional distribution, by the textbook; y is one measurement."""
        h = matrix(projection, self.shape)
        inner = h @ self.covariance @ h.T + noise**2 * torch.eye(len(h), dtype=torch.float64)
        gain = self.covariance @ h.T @ torch.linalg.pinv(inner, hermitian=True)
        mean = self.mean + gain @ (y.flatten() - h @ self.mean)
        return Images(mean, self.covariance - gain @ h @ self.covariance, self.shape)

    def draw(self, count, seed=0) -> torch.Tensor:
        z = torch.randn(count, len(self.mean), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        return (self.mean + z @ torch.linalg.cholesky(self.covariance).T).reshape(count, *self.shape)


def correlated(shape=SHAPE, seed=0) -> Images:
    g, size = torch.Generator().manual_seed(seed), math.prod(shape)
    mix = torch.randn(size, size, dtype=torch.float64, generator=g) / math.sqrt(size)
    mean = 0.5 * torch.randn(size, dtype=torch.float64, generator=g)
    return Images(mean, 0.25 * (mix @ mix.T) + 0.02 * torch.eye(size, dtype=torch.float64), shape)


@pytest.mark.parametrize("name", PROJECTIONS)
def test_projections_are_what_they_say(name):
    """H^T is the transpose of H; H H^T is the scale on the measurements; what is replaced is measured, the rest stays."""
    projection, h = PROJECTIONS[name], matrix(PROJECTIONS[name])
    g = torch.Generator().manual_seed(1)
    x, other = (torch.randn(5, *SHAPE, dtype=torch.float64, generator=g) for _ in range(2))
    y = projection.measure(other)
    torch.testing.assert_close(y.flatten(1), other.flatten(1) @ h.T)
    torch.testing.assert_close(projection.transpose(y).flatten(1), y.flatten(1) @ h)
    torch.testing.assert_close(y.flatten(1) @ h @ h.T, projection.scale * y.flatten(1))
    made = replaced(x, y, projection)
    torch.testing.assert_close(projection.measure(made), y)
    unknown = torch.eye(SIZE, dtype=torch.float64) - h.T @ h / projection.scale
    torch.testing.assert_close(made.flatten(1) @ unknown, x.flatten(1) @ unknown)


@pytest.mark.parametrize("known", [HOLE, HOLE.expand(5, 1, 2, 2), HOLE.expand(5, 3, 2, 2)])
def test_masked_values_are_replaced_to_the_last_bit(known):
    x, other = torch.randn(5, *SHAPE), torch.randn(5, *SHAPE)
    projection = Mask(known)
    assert torch.equal(replaced(x, projection.measure(other), projection), torch.where(known, other, x))


def test_projections_that_are_none():
    with pytest.raises(ValueError, match="bool"):
        Mask(torch.ones(2, 2))
    with pytest.raises(ValueError, match="factor"):
        AveragePool(0)
    with pytest.raises(ValueError, match="mask"):
        Chain(Mask(HOLE), Grey(3))


def test_conjugate_gradients_solve_each_row():
    """In as many iterations as there are dimensions; a row whose matrix is none ends without harm to the others."""
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
    """Of x_t = alpha x0 + sigma eps with x0 from the conditional Gaussian, at any time of each row."""
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
    """Mean and covariance of inpainted and of coloured Gaussian images; the known part is exactly what is known."""
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
    """Noisy block means: nothing is exact any more, and the noise is not taken for the image."""
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
    """rk45 asks at another time in each row, rk4 between the grid's, churn above them."""
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


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("case", SETTINGS)
def test_replacement_is_exact_where_known_and_unknown_are_independent(name, case):
    """Channels alike and independent: given their mean, they are normal around it with covariance s^2 (1 - 1/3)."""
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
    """From the very first time on, H x is normal around alpha y with deviation sigma, with noise that is new each time.

    rk45 also looks ahead to where a stretch ends, before what is known is replaced there: the last look counts."""
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
    """Mean and covariance [2] of a linear solver's noise-free end on a Gaussian, its first value replaced at each time.

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
    """On a correlated Gaussian every step is linear: after five coarse ones, mean and covariance are those of the exact
    recursion. A replacement at the wrong time, left out or with the wrong noise shows, and so does a repeat."""
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
    """By the recursion, without sampling: the mean's error falls, which is what the repeats are for."""
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
    """Fresh noise in what is known makes predictions jump from step to step; in the limit of small steps a multistep
    solver averages over that as DDIM does, which has no memory. Correlated, so that the unknown value feels it."""
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
    """Strength 0 is the image and 1 is plain sampling, both bit for bit."""
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
    """The flow of a Gaussian in closed form: from alpha x0 + sigma z at a share of log-SNR to the floor."""
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
    """The start lies there in what the grid is uniform in; then come the grid's own times."""
    sde, there = SDES[name], variable(SDES[name], grid, 7.0)[0]
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


@pytest.fixture(scope="module")
def rgb() -> Model:
    return exact_model(3)


@pytest.fixture(scope="module")
def photos() -> torch.Tensor:
    return torch.randint(70, 186, (3, 3, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


QUICK = {"solver": "unipc", "steps": 8}
METHODS = ["moment_matching", "replacement"]


@pytest.mark.parametrize("method", METHODS)
def test_a_model_inpaints(rgb, photos, method):
    drawn = rgb.inpaint(photos, KEPT, method=method, seed=3, **QUICK)
    assert torch.equal(drawn.images[:, :, KEPT], photos[:, :, KEPT])
    assert not torch.equal(drawn.images[:, :, ~KEPT], photos[:, :, ~KEPT])
    each = torch.stack([KEPT, ~KEPT, KEPT])[:, None]
    other = rgb.inpaint(photos, each, method=method, seed=3, **QUICK).images
    assert (other[[0, 2]].int() - drawn.images[[0, 2]].int()).abs().max() <= 1
    assert torch.equal(other[1][:, ~KEPT], photos[1][:, ~KEPT])
    alone = rgb.inpaint(photos[2:], KEPT, method=method, seed=3, first=2, **QUICK).images
    assert (alone[0].int() - drawn.images[2].int()).abs().max() <= 1


def test_a_model_knows_a_pixels_other_channels(rgb):
    """Channels differ by N(0, 0.1^2) each: two of them known at 0.5, the third is 0.48 on average, not 0.1."""
    grey = torch.full((400, 3, 4, 4), 191, dtype=torch.uint8)
    kept = torch.tensor([True, True, False])[:, None, None]
    projection = Mask(kept)
    score = rgb.conditioned(None, None, 400, 1.0)
    known = projection.measure(grey / 127.5 - 1.0)
    out = edit(score, rgb.sde, known, projection, generator=torch.Generator().manual_seed(0), steps=30).x[:, 2]
    covariance = 0.24 * torch.ones(3, 3) + 0.01 * torch.eye(3)
    gain = covariance[2, :2] @ torch.linalg.inv(covariance[:2, :2])
    expected = 0.1 + gain.sum() * (191 / 127.5 - 1.0 - 0.1)
    deviation = (covariance[2, 2] - gain @ covariance[:2, 2]).sqrt()
    assert abs(out.mean() - expected) < 4 * deviation / math.sqrt(out.numel()) + 0.002
    assert out.std().item() == pytest.approx(deviation.item(), rel=0.05)


@pytest.mark.parametrize("method", METHODS)
def test_a_model_colours_and_enlarges(rgb, photos, method):
    """The mean over channels and the means of blocks are the given ones, to a rounding of each pixel."""
    grey = photos[:, :1]
    coloured = rgb.colorise(grey, method=method, **QUICK).images
    assert coloured.shape == photos.shape
    assert (coloured.double().mean(dim=1, keepdim=True) - grey).abs().max() <= 0.5
    assert (coloured[:, 0] != coloured[:, 1]).any()
    small = photos[:, :, :2, :2]
    large = rgb.upscale(small, 2, method=method, **QUICK).images
    assert large.shape == photos.shape
    means = torch.nn.functional.avg_pool2d(large.double(), 2)
    clipped = torch.nn.functional.max_pool2d(((large == 0) | (large == 255)).double(), 2) > 0
    assert ((means - small).abs() <= 0.5)[~clipped].all()
    assert (~clipped).double().mean() > 0.5


def test_noise_is_in_grey_levels(rgb, photos):
    """Known pixels of a hundred levels' noise are hardly believed, of one level's they are kept."""
    off = [
        (rgb.inpaint(photos, torch.ones(4, 4, dtype=torch.bool), noise=noise, iterations=8, solver="unipc", steps=20)
         .images.double() - photos).abs().mean()
        for noise in (1.0, 100.0)
    ]  # fmt: skip
    assert off[0] < 3.0
    assert off[1] > 20.0


def test_a_model_edits(rgb, photos):
    """Strength 0 changes nothing and 1 is plain sampling; in between, the less noise the nearer."""
    assert torch.equal(rgb.edit(photos, 0.0, **QUICK).images, photos)
    whole = rgb.edit(photos, 1.0, seed=4, **QUICK)
    assert torch.equal(whole.images, rgb.sample(n=3, seed=4, **QUICK).images)
    distances = [
        (rgb.edit(photos, strength, seed=4, **QUICK).images.double() - photos).abs().mean()
        for strength in (0.2, 0.5, 0.9)
    ]
    assert distances[0] < distances[1] < distances[2]
    again = rgb.edit(photos[1:], 0.5, seed=4, first=1, batch_size=1, **QUICK).images
    assert (again.int() - rgb.edit(photos, 0.5, seed=4, **QUICK).images[1:].int()).abs().max() <= 1


def test_progress_counts_the_steps_that_are_taken(rgb, photos):
    told = []
    rgb.edit(photos, 0.5, batch_size=2, progress=lambda done, total: told.append((done, total)), **QUICK)
    assert told == [(number, 8) for number in range(1, 9)]
    told.clear()
    rgb.inpaint(photos, KEPT, progress=lambda done, total: told.append((done, total)), **QUICK)
    assert told == [(number, 8) for number in range(1, 9)]


def test_images_that_do_not_fit_are_named(rgb, photos):
    with pytest.raises(ValueError, match=r"inpaint.*\[B, 3, 4, 4\].*\[3, 3, 4, 2\]"):
        rgb.inpaint(photos[..., :2], KEPT[:, :2])
    with pytest.raises(ValueError, match=r"mask has shape \(4, 2\).*\(3, 3, 4, 4\)"):
        rgb.inpaint(photos, KEPT[:, :2])
    with pytest.raises(ValueError, match="mask is bool"):
        rgb.inpaint(photos, KEPT.float())
    with pytest.raises(ValueError, match=r"colorise.*\[B, 1, 4, 4\]"):
        rgb.colorise(photos)
    with pytest.raises(ValueError, match="draws grey images"):
        exact_model(1).colorise(photos[:, :1])
    with pytest.raises(ValueError, match="factor 3 does not divide"):
        rgb.upscale(photos, 3)
    with pytest.raises(ValueError, match=r"upscale.*\[B, 3, 2, 2\]"):
        rgb.upscale(photos, 2)
    with pytest.raises(ValueError, match=r"edit.*uint8 or float.*int64"):
        rgb.edit(photos.long(), 0.5)
    with pytest.raises(ValueError, match="edit: float images lie in the data range, -1 to 1"):
        rgb.edit(photos.float(), 0.5)
    with pytest.raises(ValueError, match="strength must lie between 0 and 1, got 2"):
        rgb.edit(photos, 2.0)
    with pytest.raises(ValueError, match="no text encoder"):
        rgb.edit(photos, 0.5, prompts=["a"] * 3)
    with pytest.raises(ValueError, match=r"n=3, \[2\]"):
        rgb.inpaint(photos, KEPT, prompts=["a"] * 2)


def test_latent_models_refuse_what_is_of_pixels(photos):
    latent = LatentSpec(
        vae="x", sha256="0", scaling_factor=1.0, shift_factor=0.0, shape=(3, 4, 4), pixels=(3, 8, 8)
    )  # fmt: skip
    model = exact_model(3)
    model = dataclasses.replace(model, spec=dataclasses.replace(model.spec, latent=latent))
    for ask in (
        lambda: model.inpaint(photos, KEPT),
        lambda: model.colorise(photos[:, :1]),
        lambda: model.upscale(photos, 2),
    ):
        with pytest.raises(ValueError, match="is of pixels, and this model draws latents of 'x'"):
            ask()
    with pytest.raises(ValueError, match=r"edit.*\[B, 3, 8, 8\]"):
        model.edit(photos, 0.5)


def encoded(vectors, tokens) -> Encoded:
    """Conditions whose first ``tokens`` of ``vectors`` are real."""
    context = torch.tensor(vectors, dtype=torch.float64)[None]
    mask = (torch.arange(context.shape[1]) < tokens)[None]
    return Encoded(context[:, :tokens].mean(dim=1), context, mask)


def test_conditions_between_two():
    """Straight or round lines between tokens, all of a prompt's as often as each other; each end is its own prompt."""
    first = encoded([[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]], 2)
    second = encoded([[0.0, 1.0], [1.0, 0.0], [0.0, 3.0], [2.0, 0.0]], 4)
    line = between(first, second, torch.tensor([0.0, 0.25, 1.0]), "linear")
    expected = 0.75 * torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]) + 0.25 * second.context[0]
    torch.testing.assert_close(line.context[1], expected.double())
    assert line.mask.tolist() == [[True, False, True, False], [True] * 4, [True] * 4]
    torch.testing.assert_close(line.context[0, line.mask[0]], first.context[0, :2])
    torch.testing.assert_close(line.context[2], second.context[0])
    three = encoded([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], 3)
    sixth = between(first, three, torch.tensor([0.0, 0.5, 1.0]), "linear")
    assert sixth.context.shape[1] == 6
    torch.testing.assert_close(sixth.context[2, sixth.mask[2]], three.context[0])
    torch.testing.assert_close(line.pooled[1], 0.75 * first.pooled[0] + 0.25 * second.pooled[0])
    circle = between(first, second, torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64), "spherical")
    torch.testing.assert_close(circle.context[1, 0], torch.full((2,), math.sqrt(0.5), dtype=torch.float64))
    torch.testing.assert_close(circle.context[2], second.context[0])
    torch.testing.assert_close(circle.pooled[[0, 2]], torch.cat([first.pooled, second.pooled]))
    with pytest.raises(ValueError, match="line must be one of spherical, linear"):
        between(first, second, torch.tensor([0.5]), "crooked")


@pytest.mark.parametrize("line", ["spherical", "linear"])
def test_prompts_are_interpolated_from_one_noise(line):
    """The ends are the images of the prompts, each from the first random stream; a prompt and itself give one image."""
    changes = {"classes": 3, "sde": VP()}
    model = Model(filled_model(**changes), caption_spec(**changes))
    settings = {"seed": 5, "guidance": 2.0, **QUICK}
    drawn = model.interpolate_prompts(CAPTIONS[2], CAPTIONS[3], [0.0, 0.5, 1.0], line=line, **settings).images
    for image, caption in ((drawn[0], CAPTIONS[2]), (drawn[2], CAPTIONS[3])):
        alone = model.sample(prompts=[caption], **settings).images[0]
        assert (image.int() - alone.int()).abs().max() <= 1
    assert (drawn[0].int() - drawn[2].int()).abs().max() > 1
    assert not torch.equal(drawn[0], drawn[1])
    same = model.interpolate_prompts(CAPTIONS[0], CAPTIONS[0], [0.0, 0.3, 1.0], line=line, **settings).images
    assert (same.int() - same[:1].int()).abs().max() <= 1
    with pytest.raises(ValueError, match="weights must lie between 0 and 1"):
        model.interpolate_prompts("a", "b", [1.5])


def test_images_between_prompts_of_unequal_length_begin_where_the_first_ends():
    """A weight of a millionth moves an image by next to nothing, from either end, however many tokens the prompts have."""
    model = Model(filled_model(sde=VP()), caption_spec(sde=VP()))
    short, long = "one", "the digit two and the digit three"
    tokens = [int(model.score_model.conditioner.encode([text], None, 1).mask.sum()) for text in (short, long)]
    assert tokens[0] != tokens[1]
    with torch.no_grad():
        for parameter in model.score_model.network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    x, t = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.5])

    def score(weight):
        encode = model.score_model.conditioner.encode
        given = between(encode([short], None, 1), encode([long], None, 1), torch.tensor([weight]), "linear")
        return model.score_model.score(x, t, given)

    with torch.no_grad():
        ends, near = (score(0.0), score(1.0)), (score(1e-6), score(1.0 - 1e-6))
    way = (ends[0] - ends[1]).norm()
    assert way > 0.01
    for end, beside in zip(ends, near, strict=True):
        assert (end - beside).norm() < 1e-3 * way


def test_what_is_drawn_from_noise_goes_by_the_models_own_settings():
    """SDEdit at strength 1 is plain sampling then too, and prompts' ends are; what restores takes everybody's."""
    own = {"solver": "unipc", "steps": 3, "guidance": 3.0, "guidance_interval": (0.1, 1.0)}
    model = Model(filled_model(sde=VP()), replace(caption_spec(sde=VP()), generation=own))
    images = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    asked = {"prompts": list(CAPTIONS[:2]), "seed": 3}
    plain, whole = model.sample(**asked), model.edit(images, 1.0, **asked)
    assert torch.equal(whole.images, plain.images)
    assert whole.nfe == plain.nfe == 3
    between_two = model.interpolate_prompts(CAPTIONS[0], CAPTIONS[1], [0.0, 1.0], seed=3)
    assert between_two.nfe == 3
    assert (between_two.images[0].int() - plain.images[0].int()).abs().max() <= 1
    everywhere = {"guidance": 3.0, "guidance_interval": (0.0, math.inf)}
    assert (model.sample(**asked, **everywhere).images[0].int() - plain.images[0].int()).abs().max() > 1
    for other in ({"guidance": 1.0, "guidance_interval": (0.0, math.inf)}, everywhere):
        assert model.edit(images, 1.0, **asked, **other).images.ne(plain.images).any()
    assert model.inpaint(images, torch.ones(8, 8, dtype=torch.bool), **asked).nfe > 30


@pytest.mark.parametrize("act", ["sample", "edit", "inpaint", "interpolate_prompts"])
def test_who_is_led_away_is_led(act):
    """A negative prompt without a scale has that of the command line; an interval without one is refused."""
    model = Model(filled_model(sde=VP()), caption_spec(sde=VP()))
    images = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    calls = {
        "sample": lambda **more: model.sample(prompts=["two"], **more),
        "edit": lambda **more: model.edit(images, 0.9, prompts=["two"], **more),
        "inpaint": lambda **more: model.inpaint(images, torch.zeros(8, 8, dtype=torch.bool), prompts=["two"], **more),
        "interpolate_prompts": lambda **more: model.interpolate_prompts("two", "one", [0.5], **more),
    }
    draw = partial(calls[act], solver="euler", steps=3)
    led = draw(negative="three").images
    assert torch.equal(led, draw(negative="three", guidance=2.0).images)
    assert not torch.equal(led, draw().images)
    with pytest.raises(ValueError, match="guidance_interval has no effect at guidance 1"):
        draw(guidance_interval=(0.2, 5.0))


def test_a_single_prompt_is_no_list_of_letters():
    model = Model(filled_model(classes=3, sde=VP()), caption_spec(classes=3, sde=VP()))
    with pytest.raises(ValueError, match="prompts must be a list with one for each image, got 'two'"):
        model.sample(prompts="two", **QUICK)
    with pytest.raises(ValueError, match="labels must be a list with one for each image, got 1"):
        model.sample(labels=1, **QUICK)


def test_churn_is_of_the_whole_grid_whatever_part_is_walked():
    """Half of the steps of SDEdit are as noisy as the second half of plain sampling's: their noise is drawn as often and
    as large, so that from the same x at the middle they come to the same end."""
    sde, score = SDES["vp"], gaussian_score(0.3, 0.5, SDES["vp"])
    given = {"solver": "edm", "steps": 8, "grid": "log_snr", "churn": 2.0}
    x0 = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = sdedit(score, sde, x0, 0.5, generator=torch.Generator().manual_seed(5), **given).x
    times, g = Method(**given).times(sde)[4:], torch.Generator().manual_seed(5)
    alpha, sigma = sde.marginal(times[0])
    x = alpha * x0 + sigma * torch.randn(x0.shape, generator=g, dtype=torch.float64)
    walk = Walk(score, sde, times, noise_from(g))
    step = EdmHeun(walk, 1.0, 0.0, math.inf, 1.0)  # a quarter more at each of four steps, as 2.0 gives at each of eight
    for index in range(4):
        x, mean = step(x, index)
    torch.testing.assert_close(found, mean)
