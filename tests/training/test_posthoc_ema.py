"""Post-hoc EMA: its mathematics against sums and integrals."""

import itertools
import math

import numpy as np
import pytest
import torch

from raysde.training.posthoc_ema import (
    PowerEma,
    Snapshot,
    fit_profile,
    inner_product,
    profile_exponent,
    reconstruct_average,
    reconstruction_weights,
)
from tests.support.training import STDS

REGULAR = [(step / 16, std) for step in range(1, 17) for std in STDS]


def profile(tau, g, t):
    """Return the power function on [0, t], as the paper defines it."""
    return np.where(tau <= t, (g + 1) * tau**g / t ** (g + 1), 0.0)


def integral(function, end):
    """Integrate by Gauss-Legendre on [0, end]; exact for polynomials of degree 199."""
    nodes, factors = np.polynomial.legendre.leggauss(100)
    return (function((nodes + 1) / 2 * end) * factors).sum() * end / 2


# ----------------------------------------------------------------------------------------------- the mathematics


@pytest.mark.parametrize("std", [0.01, 0.05, 0.1, 0.2, 0.279])
def test_the_profile_has_its_standard_deviation(std):
    g = profile_exponent(std)
    mean = integral(lambda tau: tau * profile(tau, g, 1.0), 1.0)
    variance = integral(lambda tau: (tau - mean) ** 2 * profile(tau, g, 1.0), 1.0)
    assert math.sqrt(variance) == pytest.approx(std, rel=1e-5)


@pytest.mark.parametrize("std", [1e-300, 1e-6, 0.001, 0.1, 0.28 - 1e-9])
def test_the_exponent_solves_its_equation(std):
    g = profile_exponent(std)
    assert g > 0.0
    assert math.sqrt((g + 1) / (g + 3)) / (g + 2) == pytest.approx(std, rel=1e-12)


@pytest.mark.parametrize("g", [0.2, 1.0, 6.94, 17.0, 1000.0])
def test_the_standard_deviation_has_its_exponent(g):
    assert profile_exponent(math.sqrt((g + 1) / ((g + 2) ** 2 * (g + 3)))) == pytest.approx(g, rel=1e-9)


@pytest.mark.parametrize("std", [0.0, -0.1, 0.28, 0.3, math.nan])
def test_impossible_lengths_are_named(std):
    with pytest.raises(ValueError, match=f"between 0 and 0.28, got {std}"):
        PowerEma(torch.nn.Linear(1, 1), std=std)


@pytest.mark.parametrize("std", STDS)
def test_the_average_is_the_weighted_sum_of_the_path(std):
    """Weights k have factor (t_k^(g+1) - t_(k-1)^(g+1)) / T^(g+1), the profile's mass in their step; w_0 has none."""
    module = torch.nn.Linear(3, 2).double()
    average, g = PowerEma(module, std=std), profile_exponent(std)
    times, path = [0], []
    for step, batch in enumerate((16, 16, 4, 64, 16, 32)):
        module.weight.data.normal_(generator=torch.Generator().manual_seed(step))
        path.append(module.weight.detach().clone())
        times.append(times[-1] + batch)
        average.update(batch, times[-1])
        mass = np.diff((np.array(times) / times[-1]) ** (g + 1))
        expected = sum(factor * w for factor, w in zip(mass, path, strict=True))
        torch.testing.assert_close(average.state()["weight"], expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("t_a", [0.3, 1.0, 2.0])
@pytest.mark.parametrize(("std_a", "std_b"), [(0.05, 0.1), (0.2, 0.05), (0.1, 0.1)])
def test_inner_products_are_integrals(std_a, std_b, t_a):
    a, b, t_b = profile_exponent(std_a), profile_exponent(std_b), 1.3
    expected = integral(lambda tau: profile(tau, a, t_a) * profile(tau, b, t_b), min(t_a, t_b))
    found = inner_product(*(torch.tensor(value, dtype=torch.float64) for value in (a, t_a, b, t_b)))
    assert found.item() == pytest.approx(expected, rel=1e-7)


def test_inner_products_of_long_runs_do_not_overflow():
    """Times in images reach 1e9, and the shortest averages have exponents near 1000: t^(g + 1) would overflow."""
    g, t = torch.tensor(profile_exponent(1e-3), dtype=torch.float64), torch.tensor(1e9, dtype=torch.float64)
    torch.testing.assert_close(inner_product(g, t, g, t), (g + 1) ** 2 / (2 * g + 1) / t)


def test_the_fit_is_the_best_of_mass_one():
    """The fit's error is the integral of the squared difference, and any other combination of mass one is worse."""
    stored, std = REGULAR[-8:], 0.07
    found = fit_profile([(1e6 * t, each) for t, each in stored], 1e6, std)
    nodes = [(t, profile_exponent(each)) for t, each in stored]
    edges = sorted({0.0, *(t for t, _ in stored)})

    def distance(factors) -> float:
        def squared(tau):
            mixed = sum(w * profile(tau, g, t) for w, (t, g) in zip(factors, nodes, strict=True))
            return (mixed - profile(tau, profile_exponent(std), 1.0)) ** 2

        parts = [integral(lambda x, low=low: squared(low + x), high - low) for low, high in itertools.pairwise(edges)]
        return sum(parts) ** 0.5 / integral(lambda tau: profile(tau, profile_exponent(std), 1.0) ** 2, 1.0) ** 0.5

    best = found.weights.numpy()
    assert best.sum() == pytest.approx(1.0, abs=1e-12)
    assert found.error == pytest.approx(distance(best), rel=1e-4)
    rng = np.random.default_rng(0)
    for _ in range(20):
        step = rng.normal(size=best.size)
        assert distance(best + 1e-2 * (step - step.mean())) > found.error


@pytest.mark.parametrize("which", [31, 30, 17, 0])
def test_a_stored_average_comes_back_exactly(which):
    generator = torch.Generator().manual_seed(0)
    kept = [Snapshot(t, std, {"w": torch.randn(50, generator=generator)}) for t, std in REGULAR]
    again = reconstruct_average(kept, kept[which].time, kept[which].std)
    assert again["w"].dtype == torch.float32
    assert torch.equal(again["w"], kept[which].tensors["w"])
    torch.testing.assert_close(
        reconstruction_weights(REGULAR, *REGULAR[which]), torch.eye(32, dtype=torch.float64)[which], rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("std", [0.04, 0.07, 0.15])
@pytest.mark.parametrize("kept_every", [250, 125])
def test_an_average_not_kept_is_reconstructed(std, kept_every):
    """On a random walk far from zero, the reconstruction error is small against the differences between averages."""
    walk = torch.nn.Linear(40, 25, bias=False).double()
    walk.weight.data.fill_(10.0)
    tracked = PowerEma(walk, std=std)
    stored = [PowerEma(walk, std=each) for each in STDS]
    kept, generator = [], torch.Generator().manual_seed(3)
    for step in range(1, 2001):
        walk.weight.data.add_(torch.randn(25, 40, dtype=torch.float64, generator=generator), alpha=0.05)
        for average in (tracked, *stored):
            average.update(16, 16 * step)
        if step % kept_every == 0:
            kept += [Snapshot(16 * step, each.std, {k: v.clone() for k, v in each.state().items()}) for each in stored]
    again, expected = reconstruct_average(kept, 16 * 2000, std)["weight"], tracked.state()["weight"]
    apart = (stored[0].state()["weight"] - stored[1].state()["weight"]).norm()
    assert (again - expected).norm() < 2e-3 * expected.norm()
    assert (again - expected).norm() < (0.05 if kept_every == 250 else 0.02) * apart


def test_sums_are_rounded_once():
    """A combination of similar averages is the exact sum rounded to float32 once."""
    generator = torch.Generator().manual_seed(0)
    kept = [Snapshot(t, std, {"w": 1.0 + 1e-6 * torch.randn(200, generator=generator)}) for t, std in REGULAR]
    exact = reconstruction_weights(REGULAR, 1.0, 0.04) @ torch.stack([each.tensors["w"].double() for each in kept])
    again = reconstruct_average(kept, 1.0, 0.04)["w"].double()
    torch.testing.assert_close(again, exact, rtol=1.001 * 2.0**-24, atol=0.0)


def test_few_snapshots_do_not_scale_the_weights():
    """The average of constant weights is these weights, whatever is stored."""
    kept = [Snapshot(1.0, std, {"w": torch.full((4,), 3.0)}) for std in STDS]
    torch.testing.assert_close(reconstruct_average(kept, 1.0, 0.07)["w"], torch.full((4,), 3.0))


def test_lengths_out_of_reach_are_named():
    kept = [Snapshot(1000.0, std, {"w": torch.zeros(2)}) for std in STDS]
    with pytest.raises(ValueError, match=r"std 0\.01 at 1000 images is not reachable from 2 snapshots"):
        reconstruct_average(kept, 1000.0, 0.01)
    with pytest.raises(ValueError, match="not reachable"):
        reconstruct_average(kept, 2000.0, 0.07)
    with pytest.raises(ValueError, match="needs stored averages"):
        reconstruct_average([], 1.0, 0.07)
    with pytest.raises(ValueError, match="different models"):
        reconstruct_average([*kept, Snapshot(500.0, 0.1, {"v": torch.zeros(2)})], 1000.0, 0.07)
