"""Confidence intervals of 95% for means and proportions."""

import math

from torch import Tensor

Z = 1.959964
"""The 97.5% quantile of the standard normal distribution."""


def normal_interval(value: float, error: float) -> tuple[float, float]:
    """Return value - z * error and value + z * error, where ``error`` is the standard error."""
    return value - Z * error, value + Z * error


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """Return the mean of values [N] and its standard error, in float64; the error is NaN for one value."""
    found = values.double()
    error = (found.std() / math.sqrt(len(found))).item() if len(found) > 1 else math.nan
    return found.mean().item(), error


def wilson_interval(hits: int, count: int) -> tuple[float, float]:
    """Return the 95% interval of the proportion hits / count (Wilson 1927), in [0, 1] and valid for small counts.

    Args:
        hits, count: number of successes, and number of trials.
    """
    assert 0 <= hits <= count
    share, z2 = hits / count, Z**2
    middle = (share + z2 / (2 * count)) / (1.0 + z2 / count)
    half = Z / (1.0 + z2 / count) * math.sqrt(share * (1.0 - share) / count + z2 / (4.0 * count**2))
    # without hits or without misses, rounding would move an end past the share
    return min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half))
