"""Metrics against torchmetrics, closed forms, brute force and other programs; intervals against repeats."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, sem
from sklearn.neighbors import NearestNeighbors
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from raysde.evaluation.chunks import MeasuredRange, merge_parts
from raysde.evaluation.metrics import frechet, kernel
from raysde.evaluation.metrics.frechet import Moments
from raysde.evaluation.metrics.inception_score import inception_score, kl_divergences
from raysde.evaluation.metrics.intervals import mean_and_error, wilson_interval
from raysde.evaluation.metrics.jackknife import Influence
from raysde.evaluation.metrics.precision_recall import find_covered
from raysde.inference.ranges import split_range


class Small(nn.Module):
    """A network from uint8 [B, 3, 8, 8] to float64 features [B, 6]."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(5)
        self.register_buffer("weight", torch.randn(192, 6, generator=g, dtype=torch.float64) / 14.0)

    def forward(self, images):
        return torch.tanh((images.double().flatten(1) / 127.5 - 1.0) @ self.weight) * 2.0


def images(count: int, seed: int, brightest: int = 256):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, brightest, (count, 3, 8, 8), generator=g, dtype=torch.uint8)


REAL, DRAWN = images(173, 0), images(150, 1, 230)


def gaussian(mean, covariance, count, g):
    root = torch.linalg.cholesky(covariance)
    return mean + torch.randn(count, len(mean), generator=g, dtype=torch.float64) @ root.T


def exact(mean, covariance, count=10_000_000):
    """Return moments with the given mean and covariance."""
    return Moments(count, count * mean, (count - 1) * covariance + count * torch.outer(mean, mean))


FIRST = torch.tensor([[2.0, 0.6], [0.6, 0.5]], dtype=torch.float64)
SECOND = torch.tensor([[0.7, -0.4], [-0.4, 1.5]], dtype=torch.float64)
SHIFT = torch.tensor([0.3, -0.8], dtype=torch.float64)


def closed_form(shift, a, b):
    """Use, for 2 x 2, tr sqrt(AB) = sqrt(tr AB + 2 sqrt(det AB)), the eigenvalues of AB being positive."""
    product = a @ b
    root = torch.sqrt(product.trace() + 2.0 * torch.sqrt(torch.linalg.det(product)))
    return (shift @ shift + a.trace() + b.trace() - 2.0 * root).item()


@pytest.mark.parametrize("batch", [1, 7, 150])
def test_fid_is_torchmetrics_for_any_batch_size(batch):
    network = Small()
    theirs = FrechetInceptionDistance(feature=network, input_img_size=(3, 8, 8))
    theirs.update(REAL, real=True)
    theirs.update(DRAWN, real=False)
    parts = [Moments.of(network(part)) for part in DRAWN.split(batch)]
    ours = frechet.frechet_distance(Moments.of(network(REAL)), sum(parts[1:], parts[0])).value
    assert ours == pytest.approx(theirs.compute().item(), abs=1e-6)


def test_fid_of_two_gaussians_is_the_closed_form():
    found = frechet.frechet_distance(exact(torch.zeros(2).double(), FIRST), exact(SHIFT, SECOND))
    assert found.value == pytest.approx(closed_form(SHIFT, FIRST, SECOND), abs=1e-8)
    spread = torch.arange(1.0, 30.0, dtype=torch.float64)
    found = frechet.frechet_distance(exact(spread, spread.diag()), exact(2.0 * spread, (4.0 * spread).diag()))
    assert found.value == pytest.approx((spread.square() + spread).sum().item(), rel=1e-9)


def test_fid_of_a_set_with_itself_is_nothing_also_where_features_outnumber_images():
    features = torch.randn(20, 50, generator=torch.Generator().manual_seed(0))
    moments = Moments.of(features)
    assert frechet.frechet_distance(moments, moments).value == pytest.approx(0.0, abs=1e-5)


def test_moments_are_those_of_numpy_in_any_order_and_partition():
    features = torch.randn(5000, 3, generator=torch.Generator().manual_seed(0)) + 100.0
    parts = [Moments.of(features[start:stop]) for start, stop in ((900, 5000), (0, 1), (1, 900))]
    for found in (Moments.of(features), parts[0] + parts[1] + parts[2]):
        assert found.count == 5000
        np.testing.assert_allclose(found.mean, features.double().numpy().mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(found.covariance, np.cov(features.double().numpy().T), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(("reals", "drawns"), [(4000, 300), (300, 4000), (600, 600)])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_the_error_of_fid_is_that_of_repeated_draws(reals, drawns, shift):
    """The deviation of 400 repeats has a relative standard error of 1 / sqrt(800)."""
    g, found, errors = torch.Generator().manual_seed(1), [], []
    for _ in range(400):
        real, drawn = gaussian(0 * SHIFT, FIRST, reals, g), gaussian(shift * SHIFT, SECOND, drawns, g)
        moments = Moments.of(real), Moments.of(drawn)
        distance = frechet.frechet_distance(*moments)
        found.append(distance.value)
        errors.append(frechet.frechet_influences(distance, *moments, real[: reals // 2], drawn).error)
    assert np.mean(errors) == pytest.approx(np.std(found), rel=4.0 / math.sqrt(800.0))


def fid_of(real, drawn):
    moments = Moments.of(real), Moments.of(drawn)
    distance = frechet.frechet_distance(*moments)
    return distance.value, frechet.frechet_influences(distance, *moments, real, drawn)


def kid_of(real, drawn):
    return kernel.unbiased_discrepancy(real, drawn).item(), kernel.jackknife_influences(real, drawn)


@pytest.mark.parametrize("figure", [fid_of, kid_of])
def test_the_error_of_a_paired_difference_is_that_of_repeated_draws(figure):
    """Draw two sets of images from the same noise 400 times beside the same real ones: their metrics rise and fall
    together, and the difference has less than half the error of independent ones."""
    g, found, paired, apart = torch.Generator().manual_seed(3), [], [], []
    for _ in range(400):
        real, noise, other = (torch.randn(200, 3, generator=g) for _ in range(3))
        one, two = (figure(real, noise * scale + 0.3 + 0.05 * more) for scale, more in ((1.3, 0.0), (1.4, other)))
        found.append(one[0] - two[0])
        paired.append((one[1] - two[1]).error)
        apart.append(math.hypot(one[1].error, two[1].error))
    assert np.mean(paired) == pytest.approx(np.std(found), rel=4.0 / math.sqrt(800.0))
    assert np.mean(paired) < 0.5 * np.mean(apart)


def weighted_moments(features, weights):
    """Return the mean and covariance of weighted rows, with denominator N - 1 for weights of 1."""
    mean = weights @ features / weights.sum()
    centred = features - mean
    return mean, (weights[:, None] * centred).T @ centred / (weights.sum() - 1.0)


def test_influences_on_fid_are_the_derivatives_by_each_images_weight():
    """Compare with autograd through the closed form for 2 x 2, for each set under its own name and of unequal sizes:
    the centred derivative times the number of images, up to the order 1/N that the jackknife leaves out."""
    g = torch.Generator().manual_seed(8)
    real, drawn = gaussian(0 * SHIFT, FIRST, 900, g), gaussian(SHIFT, SECOND, 400, g)
    weights = [torch.ones(len(each), dtype=torch.float64, requires_grad=True) for each in (real, drawn)]
    (mean, first), (other, second) = (weighted_moments(each, w) for each, w in zip((real, drawn), weights, strict=True))
    product = first @ second
    root = torch.sqrt(product.trace() + 2.0 * torch.sqrt(torch.linalg.det(product)))
    expected = (other - mean) @ (other - mean) + first.trace() + second.trace() - 2.0 * root
    slopes = torch.autograd.grad(expected, weights)
    moments = Moments.of(real), Moments.of(drawn)
    distance = frechet.frechet_distance(*moments)
    assert distance.value == pytest.approx(expected.item(), rel=1e-9)
    found = frechet.frechet_influences(distance, *moments, real, drawn)
    assert found.counts == {"real": 900, "drawn": 400}
    for name, slope in zip(("real", "drawn"), slopes, strict=True):
        wanted, own = slope * len(slope), found.values[name]
        wanted, own = wanted - wanted.mean(), own - own.mean()
        torch.testing.assert_close(own, wanted, rtol=0.0, atol=10.0 / len(slope) * wanted.abs().max().item())


@pytest.mark.parametrize(("count", "splits"), [(30, 1), (33, 4), (25, 10)])
def test_influences_on_the_inception_score_are_the_derivatives_by_each_images_weight(count, splits):
    """Compare exactly with autograd, also for parts of unequal sizes, without the mean of each part."""
    logits = 2.0 * torch.randn(count, 4, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(3))
    weights = torch.ones(count, dtype=torch.float64, requires_grad=True)
    scores, parts = [], order.chunk(splits)
    for part in parts:
        w = (weights[part] / weights[part].sum())[:, None]
        p = logits[part].softmax(dim=1)
        scores.append((w * p * (p.log() - (w * p).sum(dim=0).log())).sum().exp())
    expected = torch.stack(scores).mean()
    (slope,) = torch.autograd.grad(expected, weights)
    value, own = inception_score(logits, torch.Generator().manual_seed(3), splits)
    assert value == pytest.approx(expected.item(), rel=1e-12)
    assert len({len(part) for part in parts}) == (1 if splits == 1 else 2)
    torch.testing.assert_close(own, slope * count, rtol=1e-9, atol=1e-12)


def test_an_influence_has_the_place_of_its_image():
    """Influences are in the order of the images, however the parts are shuffled: changing an image moves its own."""
    logits = torch.randn(40, 5, generator=torch.Generator().manual_seed(1))
    changed = logits.clone()
    changed[7] = torch.tensor([9.0, 0.0, 0.0, 0.0, 0.0])
    one, two = (inception_score(each, torch.Generator().manual_seed(2), splits=1)[1] for each in (logits, changed))
    assert (two - one).abs().argmax() == 7


def test_influences_are_kept_bit_for_bit(tmp_path):
    found = Influence({"drawn": torch.randn(5).double(), "real": torch.randn(3).double()}, {"drawn": 5, "real": 30})
    found.save(tmp_path / "influence.safetensors")
    again = Influence.load(tmp_path / "influence.safetensors")
    assert (again.error, again.counts) == (found.error, found.counts)
    assert (again - found).error == 0.0


def test_few_images_are_refused_for_fid():
    with pytest.raises(ValueError, match="FID of 2047 drawn images"):
        frechet.check_count(2047, "drawn images", False)
    frechet.check_count(2047, "drawn images", True)
    frechet.check_count(2048, "drawn images", False)


def test_kid_is_torchmetrics_for_the_same_seed():
    network = Small()
    theirs = KernelInceptionDistance(feature=network, subsets=7, subset_size=60)
    theirs.update(REAL, real=True)
    theirs.update(DRAWN, real=False)
    torch.manual_seed(11)
    mean, spread = theirs.compute()
    g = torch.Generator().manual_seed(11)
    ours = kernel.kernel_discrepancy(network(REAL).float(), network(DRAWN).float(), g, subsets=7, size=60)
    assert ours.value == pytest.approx(mean.item(), abs=1e-6)
    assert ours.spread == pytest.approx(spread.item(), abs=1e-6)


@pytest.mark.parametrize("block", [4, 1024])
def test_kid_is_its_definition_pair_by_pair(block, monkeypatch):
    """Compare in float64 for equally many images in both directions, and on average over 200 subsets of 6 out of 11 and
    7, to four standard errors."""
    monkeypatch.setattr(kernel, "BLOCK", block)
    g = torch.Generator().manual_seed(4)
    real = torch.randn(11, 3, generator=g, dtype=torch.float64)
    drawn = 1.3 * torch.randn(7, 3, generator=g, dtype=torch.float64) + 0.5
    assert kernel.unbiased_discrepancy(real[:7], drawn).item() == pytest.approx(whole(real[:7], drawn), rel=1e-12)
    assert kernel.unbiased_discrepancy(drawn, real[:7]).item() == pytest.approx(whole(real[:7], drawn), rel=1e-12)
    found = kernel.kernel_discrepancy(real, drawn, g, subsets=200, size=6)
    assert abs(found.value - whole(real, drawn)) < 4.0 * found.spread / math.sqrt(200)
    alike = kernel.kernel_discrepancy(real, real, g, subsets=200, size=6)
    assert alike.value < found.value


def test_kid_of_few_images_takes_them_all():
    g = torch.Generator().manual_seed(0)
    ours = kernel.kernel_discrepancy(torch.randn(40, 3), torch.randn(30, 3), g, subsets=2)
    assert ours.size == 30


def whole(real, drawn):
    """Return the unbiased estimate, pair by pair."""
    k = lambda x, y: (float(x @ y) / len(x) + 1.0) ** 3  # noqa: E731
    own = [
        np.mean([k(x, y) for i, x in enumerate(each) for j, y in enumerate(each) if i != j]) for each in (real, drawn)
    ]
    return sum(own) - 2.0 * np.mean([k(x, y) for x in real for y in drawn])


def test_the_error_of_kid_is_the_jackknife_by_brute_force():
    g = torch.Generator().manual_seed(2)
    real, drawn = torch.randn(9, 3, generator=g), torch.randn(7, 3, generator=g) + 0.5
    variance = 0.0
    for n, without in ((9, lambda i: (np.delete(real, i, 0), drawn)), (7, lambda i: (real, np.delete(drawn, i, 0)))):
        values = np.array([whole(*without(i)) for i in range(n)])
        variance += (n - 1) / n * ((values - values.mean()) ** 2).sum()
        values = (n - 1) * (values.mean() - values)
        own = kernel.jackknife_influences(real, drawn).values["real" if n == 9 else "drawn"]
        np.testing.assert_allclose(own, values, rtol=1e-4, atol=1e-4 * np.abs(values).max())
    assert kernel.jackknife_influences(real, drawn).counts == {"real": 9, "drawn": 7}
    assert kernel.jackknife_influences(real, drawn).error ** 2 == pytest.approx(variance, rel=1e-5)
    ours = kernel.kernel_discrepancy(real, drawn, g, subsets=5, size=6)
    assert ours.influence.error == pytest.approx(math.sqrt(variance + ours.spread**2 / 4), rel=1e-5)


def test_the_sums_of_kernels_do_not_depend_on_their_blocks(monkeypatch):
    first, second = torch.randn(10, 4), torch.randn(9, 4)
    expected = kernel.polynomial_kernel(first, second).sum(dim=1)
    monkeypatch.setattr(kernel, "BLOCK", 4)
    torch.testing.assert_close(kernel.kernel_sums(first, second), expected)


def test_the_inception_score_is_torchmetrics_for_the_same_seed():
    network = Small()
    theirs = InceptionScore(feature=network, splits=10)
    theirs.update(REAL)
    torch.manual_seed(3)
    mean, _ = theirs.compute()
    ours, _ = inception_score(network(REAL), torch.Generator().manual_seed(3))
    assert ours == pytest.approx(mean.item(), abs=1e-6)


def test_the_inception_score_of_known_classes():
    """The score is K for certain images spread evenly over K classes, and 1 if every image has the same classes."""
    certain = torch.eye(5).repeat(200, 1) * 1000.0
    assert inception_score(certain, torch.Generator().manual_seed(0), splits=1)[0] == pytest.approx(5.0)
    value, own = inception_score(torch.ones(50, 5), torch.Generator(), splits=5)
    assert value == pytest.approx(1.0)
    assert own.abs().max() == pytest.approx(0.0)
    torch.testing.assert_close(
        kl_divergences(torch.eye(3).add(1e-30).log().double()), torch.full((3,), math.log(3.0)).double()
    )


def test_the_error_of_the_inception_score_is_that_of_repeated_draws():
    """Compare with the deviation of 400 repeats, as for FID."""
    g, found, errors = torch.Generator().manual_seed(4), [], []
    for _ in range(400):
        value, own = inception_score(2.0 * torch.randn(400, 4, generator=g), g, splits=2)
        found.append(value)
        errors.append(Influence({"drawn": own}, {"drawn": len(own)}).error)
    assert np.mean(errors) == pytest.approx(np.std(found), rel=4.0 / math.sqrt(800.0))


@pytest.mark.parametrize("neighbours", [1, 3])
def test_precision_is_that_of_scikit_learns_neighbours(neighbours, monkeypatch):
    monkeypatch.setattr("raysde.evaluation.metrics.precision_recall.BLOCK", 16)
    g = torch.Generator().manual_seed(6)
    real, drawn = torch.randn(60, 3, generator=g), 1.5 * torch.randn(50, 3, generator=g) + 0.3
    for first, second in ((real, drawn), (drawn, real)):
        near = NearestNeighbors(n_neighbors=neighbours + 1).fit(first.double().numpy())
        radii = near.kneighbors(first.double().numpy())[0][:, -1]
        apart = np.linalg.norm(second.double().numpy()[:, None] - first.double().numpy()[None], axis=2)
        expected = int((apart <= radii).any(axis=1).sum())
        assert 0 < expected < len(second)
        assert find_covered(first, second, neighbours).sum() == expected


def test_precision_and_recall_see_different_things():
    """Images drawn near one of two real clusters are all real, and half of the real ones are missed."""
    g = torch.Generator().manual_seed(7)
    one, other, drawn = (torch.randn(200, 2, generator=g) for _ in range(3))
    real = torch.cat([one, other + 100.0])
    assert find_covered(real, drawn).sum() >= 190
    assert 180 <= find_covered(drawn, real).sum() <= 200


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (3, 10), (10, 10), (970, 1000)])
def test_wilson_is_scipys(hits, count):
    expected = binomtest(hits, count).proportion_ci(method="wilson")
    assert wilson_interval(hits, count) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_wilson_holds_the_share_itself():
    """The interval contains the share for any count; its end is exactly 0 or 1 if there are no hits or no misses."""
    for count in range(1, 6000):
        assert wilson_interval(0, count)[0] == 0.0 < wilson_interval(0, count)[1]
        assert wilson_interval(count, count)[0] < 1.0 == wilson_interval(count, count)[1]


def test_the_error_of_a_mean_is_scipys():
    values = torch.rand(30, generator=torch.Generator().manual_seed(0))
    assert mean_and_error(values) == pytest.approx((values.double().mean().item(), sem(values.double().numpy())))


def test_parts_are_the_whole_in_any_order_and_missing_ones_are_noticed():
    values = torch.randn(1000, 2)
    parts = [MeasuredRange(first, {"x": values[first : first + count]}) for first, count in split_range(1000, 300)]
    assert [part.count for part in parts] == [300, 300, 300, 100]
    assert torch.equal(merge_parts(reversed(parts))["x"], values)
    with pytest.raises(AssertionError):
        merge_parts([parts[0], parts[2], parts[3]])
    with pytest.raises(AssertionError):
        merge_parts([*parts, parts[1]])
