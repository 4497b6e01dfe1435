"""Predictors: stochastic steps of the reverse SDE from time t to an earlier time s.

A predictor takes ``(walk, x, index)`` with x [B, ...] and returns the next state with its noise and without it.

Sources: Song et al. 2021, appendix D to F.
"""

import math

from torch import Tensor

from raysde.sampling.solvers.trajectory import Walk


def euler_maruyama(walk: Walk, x: Tensor, index: int) -> tuple[Tensor, Tensor]:
    """Return x - (f x - g^2 score) dt + g sqrt(dt) z and its mean, each [B, ...] (Song et al. eq. 6).

    The step leads from the grid's time ``index`` to ``index + 1``; dt is positive.
    """
    t, sde = walk.times[index], walk.sde
    dt = t - walk.times[index + 1]
    f, g2 = walk.quantity(sde.drift_rate, t), walk.quantity(sde.diffusion2, t)
    mean = (1.0 - f * dt) * x + g2 * dt * walk.score(x, t)
    return mean + math.sqrt(g2 * dt) * walk.noise(x), mean


def reverse_diffusion(walk: Walk, x: Tensor, index: int) -> tuple[Tensor, Tensor]:
    """Return the reversed step (2 - a) x + b^2 score + b z and its mean, each [B, ...] (Song et al. eq. 46).

    The step leads from the grid's time ``index`` to ``index + 1``; a and b are those of :meth:`Walk.transition`.
    """
    a, b2 = walk.transition(index)
    mean = (2.0 - a) * x + b2 * walk.score(x, walk.times[index])
    return mean + math.sqrt(b2) * walk.noise(x), mean


def ancestral(walk: Walk, x: Tensor, index: int) -> tuple[Tensor, Tensor]:
    """Return a draw from q(x_s | x_t, x0) at the predicted x0, and its mean (x + b^2 score) / a, each [B, ...].

    The step leads from the grid's time ``index`` to ``index + 1``. Its variance (b sigma_s / sigma_t)^2 is that of Song
    et al. eq. 47 (VE) and Ho et al. 2020 eq. 7
    (VP).
    """
    a, b2 = walk.transition(index)
    mean = (x + b2 * walk.score(x, walk.times[index])) / a
    return mean + math.sqrt(b2) * walk.sigma[index + 1] / walk.sigma[index] * walk.noise(x), mean


def none(walk: Walk, x: Tensor, index: int) -> tuple[Tensor, Tensor]:
    """Return x [B, ...] twice, unchanged, for sampling by a corrector alone."""
    return x, x
