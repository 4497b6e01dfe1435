"""Post-hoc EMA: averages of any length, reconstructed after training from a few stored ones.

Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models", arXiv 2312.02696, section 3 and
appendix C. Time t is counted in images seen. The average of exponent g at time t weighs the weights of time tau by its
profile p(tau) = (g + 1) tau^g / t^(g + 1) on [0, t]. Its length is given by the profile's standard deviation relative
to t, which does not depend on t. A profile that was not stored is fitted by stored ones. The same combination of the
stored averages reconstructs its average, to the accuracy of the fit.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raysde.training.ema import Average

STD_LIMIT = 0.28
"""Upper limit of relative standard deviations; the uniform average, g = 0, has 0.289."""

FIT_LIMIT = 0.1
"""Largest relative L2 distance from the wanted profile at which a fit is accepted."""


def profile_exponent(std: float) -> float:
    """Return the exponent g of the profile with relative standard deviation ``std``; arXiv 2312.02696, section 3.1.

    std^2 = (g + 1) / ((g + 2)^2 (g + 3)). With y = std (g + 2) that is y^3 + std y^2 - y + std = 0, whose left side is
    convex for positive y and positive at 1: Newton's iterates fall from 1 to the largest root and never pass it.

    Raises:
        ValueError: if ``std`` is not in (0, 0.28).
    """
    check_std(std)
    y, previous = 1.0, math.inf
    while y < previous:
        y, previous = y - (y**3 + std * y**2 - y + std) / (3.0 * y**2 + 2.0 * std * y - 1.0), y
    return previous / std - 2.0


def check_std(std: float) -> None:
    """Raise ValueError unless ``std`` is in (0, 0.28), the relative standard deviations with exponents g > 0."""
    if not 0.0 < std < STD_LIMIT:
        raise ValueError(f"the relative std of an average must be between 0 and {STD_LIMIT}, got {std}")


class PowerEma(Average):
    """The average with the power-function profile of relative standard deviation ``std``.

    After the first step it equals the weights of that step, so it needs no ramp-up to forget the initial weights.

    Args:
        module: see :class:`raysde.training.ema.Average`.
        std: relative standard deviation, in (0, 0.28), or ValueError.
    """

    def __init__(self, module: nn.Module, *, std: float) -> None:
        super().__init__(module)
        self.std, self.exponent = std, profile_exponent(std)

    def decay_factor(self, batch: int, num_images: int) -> float:
        """Return beta(t) = (1 - dt/t)^(g + 1), the factor on the old average; arXiv 2312.02696, section 3.1.

        Args:
            batch, num_images: dt and t, the number of images in the step and in all, with these.
        """
        share: float = (1.0 - batch / num_images) ** (self.exponent + 1.0)
        return share


def inner_product(a: Tensor, t_a: Tensor, b: Tensor, t_b: Tensor) -> Tensor:
    """Return the integral of p_a p_b over time, of profiles with exponents ``a``, ``b`` at times ``t_a``, ``t_b``.

    It is (a + 1)(b + 1) min(t_a, t_b)^(a + b + 1) / ((a + b + 1) t_a^(a + 1) t_b^(b + 1)); arXiv 2312.02696, appendix
    C. Powers are taken of the ratio of the times, which cannot overflow.

    Args:
        a, t_a, b, t_b: tensors that broadcast together, the times positive.

    Returns:
        A tensor of the common shape, in 1/images if times are in images.
    """
    later = torch.maximum(t_a, t_b)
    outlived = torch.where(t_a <= t_b, b, a)
    power = (torch.minimum(t_a, t_b) / later) ** outlived
    return (a + 1.0) * (b + 1.0) / (a + b + 1.0) * power / later


@dataclass(frozen=True)
class ProfileFit:
    """A wanted profile as a combination of stored ones.

    Attributes:
        weights: factor of each stored profile, [K] float64; they sum to one.
        error: L2 distance from the wanted profile, relative to that profile's norm.
    """

    weights: Tensor
    error: float


def fit_profile(stored: Sequence[tuple[float, float]], end: float, std: float) -> ProfileFit:
    """Fit the profile ``std`` at time ``end`` by stored profiles in least squares; arXiv 2312.02696, appendix C.

    Unlike in the paper the weights sum to one, as every profile integrates to one. Otherwise the small error of a fit
    to few profiles would scale the network's weights.

    Args:
        stored: (time, relative std) of each stored average; times in the unit of ``end``.

    Raises:
        ValueError: if nothing is stored, a time is not positive, or a std is out of range.
    """
    if not stored or min(end, *(time for time, _ in stored)) <= 0.0:
        raise ValueError(f"a fit needs stored averages at positive times, got {list(stored)} and time {end}")
    t = torch.tensor([time / end for time, _ in stored], dtype=torch.float64)
    g = torch.tensor([profile_exponent(each) for _, each in stored], dtype=torch.float64)
    wanted, one = torch.tensor(profile_exponent(std), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    gram = inner_product(g[:, None], t[:, None], g, t)
    right = inner_product(g, t, wanted, one)
    norm2 = inner_product(wanted, one, wanted, one)
    weights = solve_constrained(gram, right)
    distance2 = weights @ gram @ weights - 2.0 * right @ weights + norm2
    return ProfileFit(weights, math.sqrt(max(0.0, (distance2 / norm2).item())))


def solve_constrained(gram: Tensor, right: Tensor) -> Tensor:
    """Return the x [K] with sum 1 that minimises x gram x - 2 right x (gram [K, K], right [K]), by Lagrange.

    The profiles are first scaled to norm one, since early ones are much larger than late ones.
    """
    size = 1.0 / gram.diagonal().sqrt()
    system = torch.zeros(len(size) + 1, len(size) + 1, dtype=gram.dtype)
    system[:-1, :-1] = size[:, None] * gram * size
    system[-1, :-1] = system[:-1, -1] = size
    target = torch.cat([size * right, torch.ones(1, dtype=gram.dtype)])
    solution: Tensor = torch.linalg.lstsq(system, target[:, None]).solution
    return size * solution[:-1, 0]


def reconstruction_weights(stored: Sequence[tuple[float, float]], end: float, std: float) -> Tensor:
    """Return the factor of each stored average in the reconstruction, [K] float64; see :func:`fit_profile`.

    Args:
        stored: (number of images seen, relative standard deviation) of each of the K averages.
        end: number of images seen at the time of the wanted average.
        std: relative standard deviation of the wanted average.

    Raises:
        ValueError: if nothing is stored, a time is not positive, or a std is out of range.
    """
    return fit_profile(stored, end, std).weights


@dataclass(frozen=True)
class Snapshot:
    """A stored average at some time.

    Attributes:
        time: number of images seen.
        std: relative standard deviation of its profile.
        tensors: averaged weights by name, each of its weight's shape, possibly read from a file on access.
    """

    time: float
    std: float
    tensors: Mapping[str, Tensor]


def reconstruct_average(snapshots: Sequence[Snapshot], end: float, std: float) -> dict[str, Tensor]:
    """Return the weights averaged with relative standard deviation ``std`` at time ``end``, from snapshots.

    One tensor of one snapshot is in memory at a time; sums are in float64.

    Args:
        end: number of images seen at the time of the wanted average.

    Returns:
        The averaged weights by name, with the shapes and dtypes of the snapshots.

    Raises:
        ValueError: if ``std`` is out of range or not reachable from the snapshots, or their names differ.
    """
    found = fit_profile([(snapshot.time, snapshot.std) for snapshot in snapshots], end, std)
    if found.error > FIT_LIMIT:
        raise ValueError(
            f"std {std} at {end:.0f} images is not reachable from {len(snapshots)} snapshots: the best combination's "
            f"profile is {found.error:.0%} off; choose a std nearer to those kept, or keep more snapshots"
        )
    names = list(snapshots[0].tensors)
    if any(set(snapshot.tensors) != set(names) for snapshot in snapshots):
        raise ValueError("the snapshots are of different models: their weights have different names")
    return {name: _combine_tensors(snapshots, found.weights, name) for name in names}


def _combine_tensors(snapshots: Sequence[Snapshot], factors: Tensor, name: str) -> Tensor:
    kind = snapshots[0].tensors[name]
    total = torch.zeros_like(kind, dtype=torch.float64)
    for snapshot, factor in zip(snapshots, factors.tolist(), strict=True):
        total.add_(snapshot.tensors[name].to(torch.float64), alpha=factor)
    return total.to(kind.dtype)
