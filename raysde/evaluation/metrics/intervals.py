"""Figures with their intervals of 95%, and the textbook ways to them."""

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from raysde.evaluation.metrics.jackknife import Influence

Z = 1.959964
"""The normal distribution's quantile of 97.5%."""


@dataclass(frozen=True)
class Figure:
    """A number that says how good images are.

    Attributes:
        name, value: what was measured.
        low, high: its interval of 95%.
        samples: how many drawn images, or held-out rows, it comes from.
        method: how the value and the interval were computed.
        best: the better direction, lower or higher.
        reference: how many real images it is measured against, 0 for none.
        seed: of the images and of every random choice.
        network: hash of the feature network or classifier, empty for none.
        influence: of the images on a figure of drawn ones; it is not written down with the rest.
    """

    name: str
    value: float
    low: float
    high: float
    samples: int
    method: str
    best: str = "lower"
    reference: int = 0
    seed: int = 0
    network: str = ""
    influence: Influence | None = field(default=None, repr=False, compare=False)

    def dump(self) -> dict[str, Any]:
        """JSON values."""
        return {key: value for key, value in vars(self).items() if key != "influence"}


def normal(value: float, error: float) -> tuple[float, float]:
    """value -+ z standard errors."""
    return value - Z * error, value + Z * error


def mean_error(values: Tensor) -> tuple[float, float]:
    """Mean of [N] and its standard error, in float64; the error is NaN for one value."""
    found = values.double()
    error = (found.std() / math.sqrt(len(found))).item() if len(found) > 1 else math.nan
    return found.mean().item(), error


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The interval of a proportion (Wilson 1927), which stays in [0, 1] and holds for small counts."""
    assert 0 <= hits <= count
    share, z2 = hits / count, Z**2
    middle = (share + z2 / (2 * count)) / (1.0 + z2 / count)
    half = Z / (1.0 + z2 / count) * math.sqrt(share * (1.0 - share) / count + z2 / (4.0 * count**2))
    # without hits, or without misses, rounding would put an end beyond the share itself
    return min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half))
