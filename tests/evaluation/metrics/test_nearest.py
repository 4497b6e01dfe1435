"""Nearest training images against brute force, and thresholds against order statistics."""

import numpy as np
import pytest
import torch
from scipy.stats import betabinom

from raysde.evaluation.metrics import nearest
from raysde.evaluation.metrics.nearest import Threshold, find_nearest


def features(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("chunk", "part"), [(4096, 300), (40, 7), (1, 1), (64, 64)])
def test_the_nearest_are_those_of_brute_force_in_any_chunks(monkeypatch, chunk, part):
    """Chunks smaller than the number of neighbours, and blocks of queries that do not divide their number."""
    monkeypatch.setattr(nearest, "CHUNK", chunk)
    monkeypatch.setattr(nearest, "BLOCK", 9)
    images, mirrored, training = features(25, 0), features(25, 1), features(300, 2)
    rows = torch.randperm(300, generator=torch.Generator().manual_seed(3)) + 1000
    found = find_nearest(images, mirrored, zip(training.split(part), rows.split(part), strict=True), 20)
    a, b, c = (each.double().numpy() for each in (images, mirrored, training))
    both = np.stack([np.linalg.norm(each[:, None] - c[None], axis=2) for each in (a, b)])
    order = both.min(axis=0).argsort(axis=1)[:, :20]
    expected = np.take_along_axis(both.min(axis=0), order, axis=1)
    np.testing.assert_allclose(found.distances, expected, rtol=1e-9)
    assert found.rows.tolist() == rows.numpy()[order].tolist()
    assert found.mirrored.tolist() == np.take_along_axis(both.argmin(axis=0) == 1, order, axis=1).tolist()
    np.testing.assert_allclose(found.relative, expected[:, 0] / expected.mean(axis=1), rtol=1e-9)


def test_an_image_among_copies_alone_is_at_no_distance():
    """A distance of 0 to all neighbours is no division by 0."""
    same = torch.ones(60, 4)
    found = find_nearest(same[:3], 2.0 * same[:3], [(same, torch.arange(60))])
    assert found.relative.tolist() == [0.0] * 3
    assert not found.mirrored.any()


@pytest.mark.parametrize(("count", "rank"), [(19, 1), (38, 1), (39, 2), (59, 3), (100, 5), (2000, 100)])
def test_the_threshold_is_the_largest_rank_of_at_most_a_twentieth(count, rank):
    values = torch.rand(count, generator=torch.Generator().manual_seed(count))
    found = Threshold.of(values)
    assert (found.rank, found.count) == (rank, count)
    assert rank / (count + 1) <= 0.05 < (rank + 1) / (count + 1)
    assert int((values <= found.value).sum()) == rank
    assert found.expected == rank / (count + 1)


def test_further_images_lie_below_the_threshold_as_often_as_expected():
    """The mean share of 4,000 repeats with 39 calibrating images has the standard error of the beta distribution."""
    g = torch.Generator().manual_seed(0)
    shares = []
    for _ in range(4000):
        found = Threshold.of(torch.rand(39, generator=g))
        shares.append(found.value)  # the probability that a uniform number lies at or below it
    expected = found.expected
    error = (expected * (1.0 - expected) / 41.0 / 4000.0) ** 0.5
    assert abs(np.mean(shares) - expected) < 4.0 * error


@pytest.mark.parametrize(("count", "images"), [(19, 20), (50, 60), (200, 33), (2000, 2000)])
def test_the_band_is_scipys_beta_binomial(count, images):
    found = Threshold.of(torch.rand(count, generator=torch.Generator().manual_seed(0)))
    law = betabinom(images, found.rank, count + 1 - found.rank)
    assert found.band(images) == (law.ppf(0.025) / images, law.ppf(0.975) / images)
