"""Correctors: Langevin steps at a fixed time, which leave p_t invariant and reduce the predictor's error.

A corrector takes ``(walk, x, index, target_snr, norms)`` at the grid's time ``index``, which a predictor has just
reached. It returns the next state with its noise and without it, both of the shape of x [B, ...].
"""

import math
from collections.abc import Callable

from torch import Tensor

from raysde.sampling.solvers.trajectory import Walk
from raysde.sde import expand

Norms = Callable[[Tensor], Tensor]
"""A callable that maps x [B, ...] to the norms [B] by which a corrector sets its step size."""
Correct = Callable[[Walk, Tensor, int, float, Norms], tuple[Tensor, Tensor]]


def own_norms(x: Tensor) -> Tensor:
    """Return the norm of each image of x [B, ...], [B], so that images do not depend on each other.

    A step size that depends on x widens the distribution: here its variance by a fraction 2 / d for d pixels.
    """
    norms: Tensor = x.reshape(len(x), -1).norm(dim=1)
    return norms


def mean_norm(x: Tensor) -> Tensor:
    """Return the batch mean of the norms of x [B, ...], repeated to [B], as Song et al. do.

    A single norm is too noisy in two dimensions.
    """
    return own_norms(x).mean().expand(len(x))


def damping(walk: Walk, index: int) -> float:
    """Return a^2 = alpha^2(t - dt -> t), 1 for VE: Song's factor 1 - beta_i for any number of steps.

    Args:
        index: number of the grid's time t; dt is the step before it, or the first step for index 0.
    """
    return walk.transition(max(index - 1, 0))[0] ** 2


def langevin(walk: Walk, x: Tensor, index: int, target_snr: float, norms: Norms) -> tuple[Tensor, Tensor]:
    """Return x + eta score + sqrt(2 eta) z, of the shape of x [B, ...], and its mean (Song et al. algorithms 4 and 5).

    eta = 2 a^2 (target_snr |z| / |score|)^2 with |z| = sqrt(d) for d pixels; the norm of the drawn z would bias it.

    Args:
        index: number of the grid's time at which x is corrected.
        target_snr: r of Song et al., the ratio of a step's signal to its noise, dimensionless.
        norms: function from the score [B, ...] to the norm that each row divides by, [B].
    """
    gradient, z = walk.score(x, walk.times[index]), walk.noise(x)
    size = math.sqrt(x[0].numel())
    eta = expand(2.0 * damping(walk, index) * (target_snr * size / norms(gradient)).square(), x)
    mean = x + eta * gradient
    return mean + (2.0 * eta).sqrt() * z, mean


def annealed_langevin(walk: Walk, x: Tensor, index: int, target_snr: float, norms: Norms) -> tuple[Tensor, Tensor]:
    """Return a Langevin step with eta = 2 a^2 (target_snr sigma)^2, of the shape of x [B, ...], and its mean (Song and
    Ermon 2019).

    Args:
        index, target_snr, norms: as for :func:`langevin`; ``norms`` is not read.
    """
    eta = 2.0 * damping(walk, index) * (target_snr * walk.sigma[index]) ** 2
    mean = x + eta * walk.score(x, walk.times[index])
    return mean + math.sqrt(2.0 * eta) * walk.noise(x), mean


CORRECTORS: dict[str, Correct] = {"langevin": langevin, "annealed_langevin": annealed_langevin}
