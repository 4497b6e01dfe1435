"""The Fréchet distance between Gaussians fitted to features (Heusel et al. 2017), from sums that can be merged.

Its interval comes from the infinitesimal jackknife: the distance is smooth in both means and covariances, so to first
order its error is a mean over images of an influence (Rippl, Munk and Sturm 2016, "Limit laws of the empirical
Wasserstein distance: Gaussian distributions"). The interval does not cover the bias of order 1/N, which falls with more
images; distances of different counts therefore cannot be compared (Chong and Forsyth 2020, arXiv 1911.07023).
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
    """Sums over features, in float64, from which mean and covariance are computed.

    Attributes:
        count: number of images.
        total: sum of the features, [D].
        outer: sum of their outer products, [D, D].
    """

    count: int
    total: Tensor
    outer: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "Moments":
        """Return the moments of features [N, D]."""
        blocks = [block.double() for block in features.split(BLOCK)]
        outer = reduce(add, (block.T @ block for block in blocks))
        return cls(len(features), features.double().sum(dim=0), outer)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.count + other.count, self.total + other.total, self.outer + other.outer)

    @property
    def mean(self) -> Tensor:
        """The mean of the features, [D]."""
        return self.total / self.count

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance [D, D], with denominator N - 1 as in torchmetrics."""
        return (self.outer - self.count * torch.outer(self.mean, self.mean)) / (self.count - 1)


def check_count(count: int, what: str, allow_few: bool, name: str = "FID") -> None:
    """Check that there are enough images for a meaningful distance: 2,048, or 2 if ``allow_few``.

    Args:
        count: number of images.
        what: their noun in the error, such as "drawn images".
        name: name of the distance, for the message.

    Raises:
        ValueError: if there are too few.
    """
    if count < (2 if allow_few else LEAST):
        raise ValueError(
            f"{name} of {count} {what} says little: its bias falls as 1/N. Take {LEAST} or more, or kid, which "
            "has no bias, or add --allow-few"
        )


@dataclass(frozen=True)
class Distance:
    """The distance from real (1) to drawn (2) images, and the terms of its influences.

    Attributes:
        value: |mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1^1/2 S_2 S_1^1/2)^1/2), in float64.
        shift: mu_2 - mu_1, [D].
        to_real, to_drawn: factors [D, D] of the optimal maps T between the Gaussians, z^T T z = |factor z|^2.
    """

    value: float
    shift: Tensor
    to_real: Tensor
    to_drawn: Tensor


def frechet_distance(real: Moments, drawn: Moments) -> Distance:
    """Compute the Fréchet distance of two sets of features."""
    shift, first, second = drawn.mean - real.mean, real.covariance, drawn.covariance
    root, inverse = matrix_powers(first, 0.5, -0.5)
    middle = root @ second @ root
    quarter, less_quarter = matrix_powers(middle, 0.25, -0.25)
    trace = first.trace() + second.trace() - 2.0 * quarter.square().sum()
    return Distance((shift @ shift + trace).item(), shift, less_quarter @ root, quarter @ inverse)


def matrix_powers(matrix: Tensor, *exponents: float) -> list[Tensor]:
    """Return a power for each exponent of a symmetric positive semidefinite matrix [D, D], restricted to its range."""
    values, vectors = torch.linalg.eigh(0.5 * (matrix + matrix.T))
    floor = len(values) * torch.finfo(values.dtype).eps * values[-1].clamp(min=torch.finfo(values.dtype).tiny)
    kept = values > floor
    safe = torch.where(kept, values, 1.0)
    return [(vectors * torch.where(kept, safe**exponent, 0.0)) @ vectors.T for exponent in exponents]


def frechet_influences(
    found: Distance, real: Moments, drawn: Moments, real_features: Tensor, features: Tensor
) -> Influence:
    """Compute the influence of each image on the distance by the infinitesimal jackknife.

    Args:
        real_features: features of all real images, or of a random part of them, [M, D].
        features: features of the drawn images, [N, D].
    """
    own = influence_of_rows(features.double() - drawn.mean, found.shift, found.to_real)
    other = influence_of_rows(real_features.double() - real.mean, -found.shift, found.to_drawn)
    return Influence({"drawn": own, "real": other}, {"drawn": drawn.count, "real": real.count})


def influence_of_rows(centred: Tensor, shift: Tensor, factor: Tensor) -> Tensor:
    """Return the influence of each image, [N], up to a constant: 2 shift.z + z^T (1 - T) z, z the centred features.

    Args:
        centred: features less their mean, [N, D].
        shift: difference of the means, [D].
        factor: factor of the map T, [D, D], see :class:`Distance`.
    """
    return 2.0 * centred @ shift + centred.square().sum(dim=1) - (centred @ factor.T).square().sum(dim=1)
