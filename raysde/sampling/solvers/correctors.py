"""Langevin steps at a fixed time, which leave p_t as it is and mend what the predictor got wrong.

A corrector takes ``(walk, x, index, target_snr, norms)`` at the time index of the grid, to which a predictor has just
come, and returns the next state with its noise and without it.
"""

import math
from collections.abc import Callable

from torch import Tensor

from raysde.sampling.solvers.trajectory import Walk
from raysde.sde import expand

Norms = Callable[[Tensor], Tensor]
Correct = Callable[[Walk, Tensor, int, float, Norms], tuple[Tensor, Tensor]]


def own_norms(x: Tensor) -> Tensor:
    """The norm of each image, [B]: an image then does not depend on the others.

    A step that depends on x widens the distribution, here its variance by a share of 2 / d for d pixels.
    """
    norms: Tensor = x.reshape(len(x), -1).norm(dim=1)
    return norms


def mean_norm(x: Tensor) -> Tensor:
    """The batch mean of the norms, [B], as Song et al. take it; in two dimensions a single norm says too little."""
    return own_norms(x).mean().expand(len(x))


def damping(walk: Walk, index: int) -> float:
    """a^2 = alpha^2(t - dt -> t), for VE 1: the form of Song's factor 1 - beta_i that does not depend on the number
    of steps."""
    return walk.transition(max(index - 1, 0))[0] ** 2


def langevin(walk: Walk, x: Tensor, index: int, target_snr: float, norms: Norms) -> tuple[Tensor, Tensor]:
    """x + eta score + sqrt(2 eta) z with eta = 2 a^2 (target_snr |z| / |score|)^2 (Song et al. algorithms 4 and 5).

    |z| is sqrt(d), the norm that d unit normals have, rather than that of the z drawn, which would bias the step.
    """
    gradient, z = walk.score(x, walk.times[index]), walk.noise(x)
    size = math.sqrt(x[0].numel())
    eta = expand(2.0 * damping(walk, index) * (target_snr * size / norms(gradient)).square(), x)
    mean = x + eta * gradient
    return mean + (2.0 * eta).sqrt() * z, mean


def annealed_langevin(walk: Walk, x: Tensor, index: int, target_snr: float, norms: Norms) -> tuple[Tensor, Tensor]:
    """The same with eta = 2 a^2 (target_snr sigma)^2, of which the score knows nothing (Song and Ermon 2019)."""
    eta = 2.0 * damping(walk, index) * (target_snr * walk.sigma[index]) ** 2
    mean = x + eta * walk.score(x, walk.times[index])
    return mean + math.sqrt(2.0 * eta) * walk.noise(x), mean


CORRECTORS: dict[str, Correct] = {"langevin": langevin, "annealed_langevin": annealed_langevin}
