"""Langevin steps at a fixed time, which leave p_t as it is and mend what the predictor got wrong."""

from collections.abc import Callable

from torch import Tensor

from raysde.sde import SDE, Score, expand
from raysde.solvers.predictors import Noise, at, transition

Corrector = Callable[[Score, SDE, Tensor, Tensor, Tensor, float, Noise], Tensor]


def langevin(score: Score, sde: SDE, x: Tensor, t: Tensor, later: Tensor, target_snr: float, noise: Noise) -> Tensor:
    """x + eta score + sqrt(2 eta) z with eta = 2 a^2 (target_snr |z| / |score|)^2 (Song et al. algorithms 4 and 5).

    The norms are those of each image, not their batch mean, so that an image does not depend on the others. a is
    alpha(later) / alpha(t), for VE 1: the form of Song's factor 1 - beta_i that does not depend on the number of steps.
    """
    gradient, z = score(x, at(t, x)), noise(x)
    a, _ = transition(sde, t, later)
    ratio = z.flatten(1).norm(dim=1) / gradient.flatten(1).norm(dim=1)
    eta = expand(2.0 * a.to(x.dtype).square() * (target_snr * ratio).square(), x)
    return x + eta * gradient + (2.0 * eta).sqrt() * z


CORRECTORS: dict[str, Corrector] = {"langevin": langevin}
