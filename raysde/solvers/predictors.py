"""One step of the reverse process from time t to an earlier time s, for every SDE.

A predictor takes ``(score, sde, x, t, s, noise)`` and returns the next state with its noise and without it. t and s are
scalars; the score is asked at t repeated over the batch. ``nfe_per_step`` is how often it asks.

Sources: Song et al. 2021, appendix D and E; Karras et al. 2022, algorithm 1 (Heun).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from raysde.sde import SDE, Score

Noise = Callable[[Tensor], Tensor]
"""``noise(x)``: standard normal values of the shape, type and device of x."""
Step = Callable[[Score, SDE, Tensor, Tensor, Tensor, Noise], tuple[Tensor, Tensor]]


def at(t: Tensor, x: Tensor) -> Tensor:
    """The scalar time ``t`` once for each image of x, in x's type: [B]."""
    return t.to(x.dtype).expand(len(x))


def transition(sde: SDE, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """a and b^2 of the exact forward step x_t = a x_s + b z, s < t."""
    ratio = torch.exp(sde.log_alpha(t) - sde.log_alpha(s))
    return ratio, sde.sigma2(t) - ratio.square() * sde.sigma2(s)


def euler_maruyama(score: Score, sde: SDE, x: Tensor, t: Tensor, s: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """x - (f x - g^2 score) dt + g sqrt(dt) z (Song et al. eq. 6)."""
    dt = t - s
    mean = x - dt.to(x.dtype) * sde.reverse_drift(x, t.to(x.dtype), score(x, at(t, x)))
    return mean + (sde.diffusion(t) * dt.sqrt()).to(x.dtype) * noise(x), mean


def reverse_diffusion(score: Score, sde: SDE, x: Tensor, t: Tensor, s: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """The forward step's own discretisation, reversed (Song et al. eq. 46): (2 - a) x + b^2 score + b z."""
    a, b2 = (value.to(x.dtype) for value in transition(sde, s, t))
    mean = (2.0 - a) * x + b2 * score(x, at(t, x))
    return mean + b2.sqrt() * noise(x), mean


def heun(score: Score, sde: SDE, x: Tensor, t: Tensor, s: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """Heun's step of the probability flow, in the variables where it reads d(x / alpha) / d(sigma / alpha) = eps.

    There the linear drift is solved exactly; for VE this is algorithm 1 of Karras et al. Order 2.
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = sde.marginal(t), sde.marginal(s)
    width = (sigma_s / alpha_s - sigma_t / alpha_t) * alpha_s
    grow, width, back_t, back_s = (value.to(x.dtype) for value in (alpha_s / alpha_t, width, -sigma_t, -sigma_s))
    slope = back_t * score(x, at(t, x))
    euler = grow * x + width * slope
    slope = 0.5 * (slope + back_s * score(euler, at(s, x)))
    step = grow * x + width * slope
    return step, step


@dataclass(frozen=True)
class Predictor:
    """A step with what the sampler must know of it: its cost, and the grid it likes."""

    step: Step
    nfe_per_step: int
    grid: str


PREDICTORS: dict[str, Predictor] = {
    "euler_maruyama": Predictor(euler_maruyama, 1, "time"),
    "reverse_diffusion": Predictor(reverse_diffusion, 1, "time"),
    "heun": Predictor(heun, 2, "log_snr"),
}
