"""The Fréchet distance between Gaussians fitted to features (Heusel et al. 2017), from sums that can be merged.

Its interval is that of the infinitesimal jackknife: the distance is smooth in both means and covariances, so that its
error is, to first order, a mean over images of an influence (Rippl, Munk and Sturm 2016, "Limit laws of the empirical
Wasserstein distance: Gaussian distributions"). It does not hold the bias of order 1/N, which falls with more images and
is why distances of different counts cannot be compared (Chong and Forsyth 2020, arXiv 1911.07023).
"""

from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor

from raysde.evaluation.metrics.jackknife import Influence

BLOCK = 4096
LEAST = 2048


@dataclass(frozen=True)
class Moments:
    """Sums over features, in float64: what the distance needs of any number of images.

    Attributes:
        count: of images.
        total: sum of the features, [D].
        outer: sum of their outer products, [D, D].
    """

    count: int
    total: Tensor
    outer: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "Moments":
        """Of features [N, D]."""
        blocks = [block.double() for block in features.split(BLOCK)]
        outer = reduce(add, (block.T @ block for block in blocks))
        return cls(len(features), features.double().sum(dim=0), outer)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.count + other.count, self.total + other.total, self.outer + other.outer)

    @property
    def mean(self) -> Tensor:
        return self.total / self.count

    @property
    def covariance(self) -> Tensor:
        """With N - 1, as torchmetrics."""
        return (self.outer - self.count * torch.outer(self.mean, self.mean)) / (self.count - 1)


def check_count(count: int, what: str, allow_few: bool) -> None:
    """Guards the number of images.

    Raises:
        ValueError: if there are too few for a distance that means something, unless that is allowed, or fewer than 2.
    """
    if count < (2 if allow_few else LEAST):
        raise ValueError(
            f"FID of {count} {what} says little: its bias falls as 1/N. Take {LEAST} or more, or kid, which "
            "has no bias, or add --allow-few"
        )


@dataclass(frozen=True)
class Distance:
    """The distance from real (1) to drawn (2), and what its influences are computed from.

    Attributes:
        value: |mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1^1/2 S_2 S_1^1/2)^1/2), in float64.
        shift: mu_2 - mu_1.
        to_real, to_drawn: [D, D] with the optimal maps T between the Gaussians, z^T T z = |factor z|^2.
    """

    value: float
    shift: Tensor
    to_real: Tensor
    to_drawn: Tensor


def frechet_distance(real: Moments, drawn: Moments) -> Distance:
    """The Fréchet distance of two sets of features."""
    shift, first, second = drawn.mean - real.mean, real.covariance, drawn.covariance
    root, inverse = matrix_powers(first, 0.5, -0.5)
    middle = root @ second @ root
    quarter, less_quarter = matrix_powers(middle, 0.25, -0.25)
    trace = first.trace() + second.trace() - 2.0 * quarter.square().sum()
    return Distance((shift @ shift + trace).item(), shift, less_quarter @ root, quarter @ inverse)


def matrix_powers(matrix: Tensor, *exponents: float) -> list[Tensor]:
    """Powers of a symmetric positive matrix on its range."""
    values, vectors = torch.linalg.eigh(0.5 * (matrix + matrix.T))
    floor = len(values) * torch.finfo(values.dtype).eps * values[-1].clamp(min=torch.finfo(values.dtype).tiny)
    kept = values > floor
    safe = torch.where(kept, values, 1.0)
    return [(vectors * torch.where(kept, safe**exponent, 0.0)) @ vectors.T for exponent in exponents]


def frechet_influences(
    found: Distance, real: Moments, drawn: Moments, real_features: Tensor, features: Tensor
) -> Influence:
    """Those of the images on the distance, by the infinitesimal jackknife.

    Args:
        real_features: those of a random part of the real images at least, [M, D].
        features: of the drawn images, [N, D].
    """
    own = influence_of_rows(features.double() - drawn.mean, found.shift, found.to_real)
    other = influence_of_rows(real_features.double() - real.mean, -found.shift, found.to_drawn)
    return Influence({"drawn": own, "real": other}, {"drawn": drawn.count, "real": real.count})


def influence_of_rows(centred: Tensor, shift: Tensor, factor: Tensor) -> Tensor:
    """How an image moves the distance, [N], up to a constant: 2 shift.z + z^T (1 - T) z of its centred features z."""
    return 2.0 * centred @ shift + centred.square().sum(dim=1) - (centred @ factor.T).square().sum(dim=1)
