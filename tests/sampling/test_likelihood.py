"""Likelihoods and latents against exact densities."""

import math

import pytest
import torch

from raysde.conditioning.conditioner import Encoded
from raysde.inference.guidance import Guided
from raysde.sampling.likelihood import (
    LogProb,
    bits_per_dim,
    decode,
    encode,
    interpolate,
    log_prob,
)
from raysde.sampling.sampler import sample
from raysde.sde import VE
from tests.support.oracles import SDES, Mixture, exact_flow, gaussian, gaussian_score, mixture

TIGHT = {"rtol": 1e-6, "atol": 1e-6}
NAMES = ["vp", "vp_cosine", "sub_vp", "ve", "edm", "flow"]


def floor_log_prob(data: Mixture, x: torch.Tensor, sde) -> torch.Tensor:
    """Return the exact log density at the training floor, where the likelihood is measured."""
    return data.log_prob(x, torch.full((len(x),), sde.train_floor, dtype=torch.float64), sde)


def centred(data: Mixture) -> Mixture:
    """Return the mixture moved to mean 0: alpha times the mean would shift the prior's end by more than the 1e-3 nats
    per dimension that the tests allow."""
    return Mixture(data.weights, data.means - data.mean, data.covariances)


def points(data: Mixture, count: int = 12) -> torch.Tensor:
    return data.sample(count, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make", [gaussian, mixture])
def test_exact_divergence_gives_the_exact_log_density(name, make):
    """The exact divergence gives the log density to 1e-3 nats per dimension at every point."""
    sde, data = SDES[name], centred(make())
    x = points(data)
    found = log_prob(data.score(sde), x, sde, divergence="exact", **TIGHT)
    error = (found.value - floor_log_prob(data, x, sde)).abs() / 2
    assert error.max() < 1e-3
    assert torch.equal(found.standard_error, torch.zeros(len(x), dtype=torch.float64))


@pytest.mark.parametrize("make", [gaussian, mixture])
def test_ve_may_be_trained_and_measured_down_to_time_zero(make):
    """At t = 0 VE's data have noise sigma_min: likelihood, latents and samples are those of that noise level."""
    sde, data = VE(train_floor=0.0, sample_floor=0.0, sigma_min=0.1), centred(make())
    x = points(data)
    found = log_prob(data.score(sde), x, sde, divergence="exact", **TIGHT)
    assert torch.isfinite(found.value).all()
    assert ((found.value - floor_log_prob(data, x, sde)).abs() / 2).max() < 1e-3
    z = encode(data.score(sde), x, sde, **TIGHT)
    torch.testing.assert_close(decode(data.score(sde), z, sde, **TIGHT), x, rtol=0.0, atol=1e-4)
    one = gaussian_score(0.3, 0.5, sde)
    start = sde.prior((9, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    end = sample(one, sde, start.shape, start=start, dtype=torch.float64, solver="rk4", steps=60).x
    torch.testing.assert_close(end, exact_flow(sde, start, 0.3, 0.5), rtol=1e-4, atol=1e-4)
    walked = sample(one, sde, start.shape, start=start, dtype=torch.float64, times=torch.tensor([1.0, 0.5, 0.0])).x
    assert torch.isfinite(walked).all()


@pytest.mark.parametrize("name", ["vp", "ve", "flow"])
@pytest.mark.parametrize("divergence", ["rademacher", "gaussian"])
def test_hutchinson_within_its_own_standard_errors(name, divergence):
    """The mean over points is within three reported standard errors, and those match the spread of the estimates."""
    sde, data = SDES[name], centred(mixture())
    x = points(data)
    g = torch.Generator().manual_seed(1)
    found = log_prob(data.score(sde), x, sde, divergence=divergence, probes=8, generator=g)
    off = found.value - floor_log_prob(data, x, sde)
    together = found.standard_error.square().sum().sqrt() / len(x)
    assert abs(off.mean()) < 3 * together + 1e-3
    # a point's error in units of its standard error has mean square (n - 1) / (n - 3) = 1.4 for 8 probes
    ratio = (off / found.standard_error).square().mean()
    assert 0.3 < ratio < 3.0


def test_probes_of_signs_are_exact_where_the_jacobian_is_diagonal():
    """Since z_i^2 = 1, rademacher probes have no variance on independent coordinates, unlike normal probes."""
    sde = SDES["vp"]
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    score = gaussian_score(0.0, 0.5, sde)
    signs = log_prob(score, x, sde, divergence="rademacher", probes=3, **TIGHT)
    normal = log_prob(score, x, sde, divergence="gaussian", probes=3, **TIGHT)
    alpha, sigma = sde.marginal(torch.tensor(sde.train_floor, dtype=torch.float64))
    exact = torch.distributions.Normal(0.0, (0.25 * alpha**2 + sigma**2).sqrt()).log_prob(x).sum(1)
    torch.testing.assert_close(signs.value, exact, rtol=0, atol=3e-3)
    assert signs.standard_error.max() < 1e-6 < 1e-2 < normal.standard_error.min()
    assert log_prob(score, x, sde, probes=1).standard_error.isnan().all()


def test_the_prior_of_ve_has_its_own_width():
    """VE's prior is as wide as sigma_max; N(0, 1) would be off by hundreds of nats."""
    sde = VE(sigma_max=20.0)
    x = torch.zeros(2, 4, dtype=torch.float64)
    found = log_prob(gaussian_score(0.0, 0.5, sde), x, sde, divergence="exact", **TIGHT)
    exact = 4 * torch.distributions.Normal(0.0, math.sqrt(0.25 + 1e-4)).log_prob(torch.zeros(())).item()
    # the true end is N(0, sigma_max^2 + 0.25)
    assert found.value[0].item() == pytest.approx(exact, abs=4 * 1e-3)


def test_one_forward_pass_for_each_evaluation():
    sde, calls = SDES["vp"], []
    exact = gaussian_score(0.0, 0.5, sde)

    def counting(x, t):
        calls.append(len(x))
        return exact(x, t)

    for settings in ({"divergence": "exact"}, {"probes": 1}, {"probes": 5}):
        calls.clear()
        found = log_prob(counting, torch.randn(3, 2), sde, **settings)
        assert found.nfe == len(calls)
        assert set(calls) == {3}


@pytest.mark.parametrize("data_range", [(-1.0, 1.0), (0.0, 1.0)])
def test_bits_per_dim_is_the_mean_over_each_level(data_range):
    """Bits are -log2 of the density, averaged over each pixel's own 256th of the range, plus log2 of 256 over the
    range.

    The model's density is a Gaussian with all pixels on one flank, so an offset of half a level in either direction is
    visible.
    """
    low, high = data_range
    sde, std = SDES["vp"], 0.1 * (high - low)
    images = torch.randint(153, 180, (4, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    middle = 0.5 * (low + high)
    found = bits_per_dim(
        gaussian_score(middle, std, sde), images, sde, data_range=data_range, repeats=12,
        generator=torch.Generator().manual_seed(1), **TIGHT,
    )  # fmt: skip
    levels = (
        torch.arange(256, dtype=torch.float64)[:, None] + (torch.arange(64, dtype=torch.float64) + 0.5) / 64
    ) / 256
    # N(0, 1) at the prior's end makes the model's own density this Gaussian, up to its mean
    alpha, sigma = sde.marginal(torch.tensor([sde.train_floor, 1.0], dtype=torch.float64))
    spread = torch.sqrt((alpha * std) ** 2 + sigma**2)
    centre = alpha[0] * middle - spread[0] / spread[1] * alpha[1] * middle
    density = torch.distributions.Normal(centre, spread[0] / spread[1]).log_prob(low + (high - low) * levels)
    exact = -density.mean(dim=1)[images.long()].flatten(1).mean(1) / math.log(2.0) + 8.0 - math.log2(high - low)
    assert ((found.value - exact).abs() < 4.0 * found.standard_error + 2e-4).all()
    assert (found.standard_error < 0.01).all()


def test_a_level_is_a_256th_of_the_range():
    """A density much wider than the range costs 8 bits per pixel plus its own height, to a part in a thousand."""
    sde = SDES["vp"]
    images = torch.randint(0, 256, (2, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found = bits_per_dim(gaussian_score(0.0, 60.0, sde), images, sde, data_range=(0.0, 1.0), repeats=2, **TIGHT)
    alpha, sigma = sde.marginal(torch.tensor([sde.train_floor, 1.0], dtype=torch.float64))
    spread = torch.sqrt((alpha * 60.0) ** 2 + sigma**2)
    exact = -torch.distributions.Normal(0.0, spread[0] / spread[1]).log_prob(torch.tensor(0.0)) / math.log(2.0) + 8.0
    assert (found.value - exact).abs().max() < 1e-3


@pytest.mark.parametrize("data_range", [(-1.0, 1.0), (0.0, 1.0), (-0.5, 3.5)])
@pytest.mark.parametrize("channels", [1, 3])
def test_bits_are_those_of_a_dimension_whatever_the_shape(channels, data_range):
    """For a density that is flat over a level, bits are -log2 of it times the level's width, averaged over all 3 H W
    values.

    Each channel has its own mean and each pixel its own level, so a sum over some axes would differ. The model's
    density is Gaussian up to its mean at the prior's end, see above.
    """
    low, high = data_range
    sde, std = SDES["vp"], 0.5 * (high - low)
    means = low + (high - low) * torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)[:channels, None, None]
    images = torch.randint(0, 256, (3, channels, 2, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)

    def score(x, t):
        alpha, sigma = (value[:, None, None, None] for value in sde.marginal(t))
        return -(x - alpha * means) / (alpha**2 * std**2 + sigma**2)

    found = bits_per_dim(
        score, images, sde, data_range=data_range, repeats=8, generator=torch.Generator().manual_seed(1), **TIGHT
    )
    alpha, sigma = sde.marginal(torch.tensor([sde.train_floor, 1.0], dtype=torch.float64))
    spread = torch.sqrt((alpha * std) ** 2 + sigma**2)
    centre = alpha[0] * means - spread[0] / spread[1] * alpha[1] * means
    at = low + (high - low) * (images.double() + 0.5) / 256.0
    density = torch.distributions.Normal(centre, spread[0] / spread[1]).log_prob(at)
    exact = -density.flatten(1).mean(dim=1) / math.log(2.0) - math.log2((high - low) / 256.0)
    assert found.value.shape == (3,)
    assert ((found.value - exact).abs() < 4.0 * found.standard_error + 1e-3).all()


def test_dequantisation_is_uniform_over_the_level_of_each_pixel(monkeypatch):
    """Dequantisation noise covers each level from edge to edge, mean 1/2 and variance 1/12, new for each repeat and
    pixel."""
    seen = []

    def noted(score, x0, sde, **settings):
        seen.append(x0)
        return LogProb(torch.zeros(len(x0)), torch.zeros(len(x0)), x0, 1)

    monkeypatch.setattr("raysde.sampling.likelihood.log_prob", noted)
    images = torch.randint(0, 256, (4, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found = bits_per_dim(
        None, images, SDES["vp"], data_range=(-1.0, 3.0), repeats=5, generator=torch.Generator().manual_seed(1)
    )
    noise = (torch.stack(seen).double() + 1.0) / 4.0 * 256.0 - images
    assert len(seen) == found.nfe == 5
    assert -1e-3 < noise.min() < 0.01
    assert 0.99 < noise.max() < 1.0 + 1e-3
    count = noise.numel()
    assert abs(noise.mean() - 0.5) < 4.0 * (1.0 / 12.0 / count) ** 0.5
    assert abs(noise.var() - 1.0 / 12.0) < 4.0 * (1.0 / 180.0 / count) ** 0.5
    flat = noise.flatten(0, 1).flatten(1)  # one row per repeat and image
    flat = (flat - 0.5) * math.sqrt(12.0)
    off = (flat @ flat.T / flat.shape[1]).fill_diagonal_(0.0)
    # the largest of 190 correlations stays below five standard errors by chance
    assert off.abs().max() < 5.0 / flat.shape[1] ** 0.5


def test_what_is_reported_of_repeats(monkeypatch):
    """Repeats report their mean in bits per dimension, its standard error and all evaluations; each draws new noise."""
    values = iter([torch.tensor([0.0, 6.0]), torch.tensor([12.0, 6.0]), torch.tensor([24.0, 6.0])])
    asked = []

    def noted(score, x0, sde, **settings):
        asked.append(settings)
        value = next(values)
        return LogProb(value.double(), torch.zeros(2), x0, 10 + len(asked))

    monkeypatch.setattr("raysde.sampling.likelihood.log_prob", noted)
    images, g = torch.zeros(2, 3, 2, 2, dtype=torch.uint8), torch.Generator()
    settings = {"divergence": "gaussian", "probes": 7, "rtol": 1e-2, "atol": 1e-7, "generator": g}
    found = bits_per_dim(None, images, SDES["vp"], repeats=3, **settings)
    # nats over 12 dimensions, of a range of 2 in 256 levels; 0, 12 and 24 have a deviation of 12
    assert found.value.tolist() == pytest.approx([7.0 - 1.0 / math.log(2.0), 7.0 - 0.5 / math.log(2.0)])
    assert found.standard_error.tolist() == pytest.approx([1.0 / math.log(2.0) / math.sqrt(3.0), 0.0])
    assert found.nfe == 11 + 12 + 13
    assert asked == [settings] * 3


def test_tolerances_reach_the_solver_by_their_names(monkeypatch):
    """Tolerances reach the solver in both directions, between the training floor and the ceiling."""
    seen = []

    def noted(slope, y, start, end, *, rtol, atol):
        seen.append((start, end, rtol, atol))
        return y, 6

    monkeypatch.setattr("raysde.sampling.likelihood.integrate_ode", noted)
    monkeypatch.setattr("raysde.sampling.solvers.adaptive.integrate_ode", noted)
    sde, x = SDES["flow"], torch.zeros(2, 3)
    tolerances = {"rtol": 1e-2, "atol": 1e-7}
    log_prob(gaussian_score(0.0, 0.5, sde), x, sde, **tolerances)
    encode(gaussian_score(0.0, 0.5, sde), x, sde, **tolerances)
    decode(gaussian_score(0.0, 0.5, sde), x, sde, **tolerances)
    up, down = (1e-5, 0.999, 1e-2, 1e-7), (0.999, 1e-5, 1e-2, 1e-7)
    assert seen == [up, up, down]


@pytest.mark.parametrize("divergence", ["rademacher", "gaussian"])
def test_probes_are_independent_and_of_unit_variance(divergence):
    """Probes are independent per image, pixel and probe: the trace estimate is unbiased with the published variance.

    For the score J x of a constant matrix J = [[0, a], [b, 0]] + diag, z^T J z has mean tr J; signs have variance (a +
    b)^2 and normal numbers 2 |(J + J^T) / 2|^2 (Hutchinson 1989).
    """
    sde, count = SDES["vp"], 400
    matrix = torch.tensor([[-2.0, 0.7], [0.3, -1.0]], dtype=torch.float64)
    settings = {"divergence": divergence, "rtol": 1e-4, "atol": 1e-4}

    def score(x, t):
        return x @ matrix.T

    x = torch.zeros(count, 2, dtype=torch.float64)
    exact = log_prob(score, x[:1], sde, divergence="exact", rtol=1e-4, atol=1e-4).value
    found = log_prob(score, x, sde, probes=4, generator=torch.Generator().manual_seed(0), **settings)
    off = found.value - exact
    assert abs(off.mean()) < 4.0 * off.std() / count**0.5 + 1e-3
    # the flow's divergence is -1/2 beta z^T (1 + J) z, whose integral over beta is 10.05; the mean of four probes
    symmetric = 0.5 * (matrix + matrix.T) + torch.eye(2, dtype=torch.float64)
    each = 1.0 if divergence == "rademacher" else 2.0 * symmetric.square().sum().item()
    variance = (0.5 * 10.05) ** 2 * each / 4.0
    # an estimate's kurtosis is at most that of chi-square, 15: four standard errors of the variance of four are 0.45
    assert off.var().item() == pytest.approx(variance, rel=0.45)
    assert found.standard_error.square().mean().item() == pytest.approx(variance, rel=0.45)


def test_bits_per_dim_wants_uint8():
    sde = SDES["vp"]
    with pytest.raises(ValueError, match="uint8"):
        bits_per_dim(gaussian_score(0.0, 0.5, sde), torch.zeros(1, 2), sde)
    with pytest.raises(ValueError, match="repeats"):
        bits_per_dim(gaussian_score(0.0, 0.5, sde), torch.zeros(1, 2, dtype=torch.uint8), sde, repeats=0)


@pytest.mark.parametrize("name", NAMES)
def test_latents_are_the_closed_form_and_come_back(name):
    """A Gaussian's flow map is linear: z = alpha m + (S_T / S_0)(x - alpha_0 m); decode inverts encode."""
    sde = SDES[name]
    x = 0.2 + 0.5 * torch.randn(6, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    score = gaussian_score(0.2, 0.5, sde)
    latent = encode(score, x, sde, **TIGHT)
    alpha, sigma = sde.marginal(torch.tensor([sde.train_floor, sde.ceiling], dtype=torch.float64))
    spread = torch.sqrt((alpha * 0.5) ** 2 + sigma**2)
    expected = alpha[1] * 0.2 + spread[1] / spread[0] * (x - alpha[0] * 0.2)
    torch.testing.assert_close(latent, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(decode(score, latent, sde, **TIGHT), x, rtol=1e-4, atol=1e-4)


def test_interpolation_keeps_the_norm_and_the_angle():
    """On the great circle of two vectors of equal norm, equal weights give equal angles, and weights 0 and 1 the
    vectors."""
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(3, 1, 4, 4, dtype=torch.float64, generator=g) for _ in range(2))
    b = b * (a.flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1))[:, None, None, None]
    path = interpolate(a, b, torch.tensor([0.0, 0.25, 0.5, 1.0]))
    torch.testing.assert_close(path[0], a)
    torch.testing.assert_close(path[3], b)
    norms = path.flatten(2).norm(dim=2)
    torch.testing.assert_close(norms, norms[0].expand(4, 3))

    def angle(x, y):
        return torch.acos((x * y).flatten(1).sum(1) / norms[0] ** 2)

    torch.testing.assert_close(angle(path[0], path[1]), 0.25 * angle(a, b))
    torch.testing.assert_close(angle(path[1], path[2]), 0.25 * angle(a, b))
    same = interpolate(a, a, torch.tensor([0.3]))
    torch.testing.assert_close(same[0], a)
    with pytest.raises(ValueError, match="latents must have one shape"):
        interpolate(a, b[:, :, :2], torch.tensor([0.5]))


def test_a_guided_score_has_no_likelihood():
    guided = Guided(None, Encoded(), Encoded(), 2.0)
    x = torch.zeros(1, 2)
    for ask in (log_prob, encode, decode):
        with pytest.raises(ValueError, match="guided"):
            ask(guided, x, SDES["vp"])


@pytest.mark.parametrize(
    ("settings", "culprit"), [({"probes": 0}, "probes"), ({"divergence": "magic"}, "magic"), ({"rtol": -1.0}, "rtol")]
)
def test_bad_settings_are_named(settings, culprit):
    sde = SDES["vp"]
    with pytest.raises(ValueError, match=culprit):
        log_prob(gaussian_score(0.0, 0.5, sde), torch.zeros(1, 2), sde, **settings)
