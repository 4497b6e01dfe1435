"""Langevin steps at a fixed time, which leave p_t as it is and mend what the predictor got wrong."""

import math
from collections.abc import Callable

from torch import Tensor

from raysde.sde import SDE, Score, expand
from raysde.solvers.predictors import Noise, at, transition

Norms = Callable[[Tensor], Tensor]
Corrector = Callable[[Score, SDE, Tensor, Tensor, Tensor, float, Noise, Norms], Tensor]


def own_norms(x: Tensor) -> Tensor:
    """The norm of each image, [B]: an image then does not depend on the others.

    A step that depends on x widens the distribution, here its variance by a share of 2 / d for d pixels.
    """
    return x.flatten(1).norm(dim=1)


def mean_norm(x: Tensor) -> Tensor:
    """The batch mean of the norms, [B], as Song et al. take it; in two dimensions a single norm says too little."""
    return own_norms(x).mean().expand(len(x))


def langevin(
    score: Score, sde: SDE, x: Tensor, t: Tensor, later: Tensor, target_snr: float, noise: Noise, norms: Norms
) -> Tensor:
    """x + eta score + sqrt(2 eta) z with eta = 2 a^2 (target_snr |z| / |score|)^2 (Song et al. algorithms 4 and 5).

    |z| is sqrt(d), the norm that d unit normals have, rather than that of the z drawn, which would bias the step.

    a is alpha(later) / alpha(t), for VE 1: the form of Song's factor 1 - beta_i that does not depend on the number of
    steps.
    """
    gradient, z = score(x, at(t, x)), noise(x)
    a, _ = transition(sde, t, later)
    size = math.sqrt(x[0].numel())
    eta = expand(2.0 * a.to(x.dtype).square() * (target_snr * size / norms(gradient)).square(), x)
    return x + eta * gradient + (2.0 * eta).sqrt() * z


CORRECTORS: dict[str, Corrector] = {"langevin": langevin}
