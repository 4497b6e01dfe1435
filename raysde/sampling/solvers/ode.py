"""Fixed steps of the probability flow in the form d(x / alpha) / d(sigma / alpha) = eps, of orders 1, 2 and 4.

In these variables the linear drift is solved exactly; on EDM they are the equations of Karras et al. 2022. A step costs
as many network evaluations as its order. It returns the next x [B, ...] twice, since no noise is added at its end.
"""

import math

import torch
from torch import Tensor

from raysde.sampling.solvers.trajectory import Walk


def euler(walk: Walk, x: Tensor, index: int) -> tuple[Tensor, Tensor]:
    """Return x [B, ...] after Euler's step from the grid's time ``index`` to ``index + 1``, with and without the step's
    noise, of which there is none.

    It equals DDIM's step with eta = 0 (Song, Meng and Ermon 2021, section 4.3).
    """
    step = step_ratios(walk, x, index, walk.eps(x, index))
    return step, step


def step_ratios(walk: Walk, x: Tensor, index: int, slope: Tensor) -> Tensor:
    """Return x [B, ...] at the grid's time ``index + 1`` for a constant slope d(x / alpha) / d(sigma / alpha) from
    ``index``.

    Args:
        slope: [B, ...], such as the predicted noise.
    """
    (alpha, sigma), (alpha_s, sigma_s) = [(walk.alpha[i], walk.sigma[i]) for i in (index, index + 1)]
    return alpha_s / alpha * x + (sigma_s - alpha_s * sigma / alpha) * slope


def heun(walk: Walk, x: Tensor, index: int) -> tuple[Tensor, Tensor]:
    """Return x [B, ...] after Heun's step from the grid's time ``index`` to ``index + 1`` (Karras et al. 2022, alg.
    1), with and without the step's noise, of which there is none."""
    first = walk.eps(x, index)
    second = walk.eps(step_ratios(walk, x, index, first), index + 1)
    step = step_ratios(walk, x, index, 0.5 * (first + second))
    return step, step


def rk4(walk: Walk, x: Tensor, index: int) -> tuple[Tensor, Tensor]:
    """Return x [B, ...] after a classical Runge-Kutta step of order 4 from the grid's time ``index`` to ``index +
    1``, with and without the step's noise, of which there is none."""
    noise_to_signal = [walk.sigma[i] / walk.alpha[i] for i in (index, index + 1)]
    width, middle = noise_to_signal[1] - noise_to_signal[0], 0.5 * (noise_to_signal[0] + noise_to_signal[1])
    t = walk.quantity(walk.sde.time_at, -2.0 * math.log(middle))
    alpha, sigma = walk.quantity(walk.sde.alpha, t), walk.quantity(walk.sde.sigma, t)
    y = x / walk.alpha[index]

    def halfway(slope: Tensor) -> Tensor:
        return -sigma * walk.score(alpha * (y + 0.5 * width * slope), t)

    first = walk.eps(x, index)
    second = halfway(first)
    third = halfway(second)
    fourth = walk.eps(walk.alpha[index + 1] * (y + width * third), index + 1)
    step = walk.alpha[index + 1] * (y + width / 6.0 * (first + 2.0 * (second + third) + fourth))
    return step, step


class EdmHeun:
    """Heun's step after adding noise (Karras et al. 2022, algorithm 2), for any SDE through sigma / alpha.

    A call is a ``Stepper``: it maps x [B, ...] to x and its mean, both of the shape of x.

    Args:
        churn: S_churn, the total noise added over all steps.
        churn_low, churn_high: range of sigma / alpha in which noise is added (S_tmin, S_tmax).
        churn_noise: standard deviation of the noise (S_noise).
    """

    def __init__(self, walk: Walk, churn: float, churn_low: float, churn_high: float, churn_noise: float) -> None:
        self.walk, self.low, self.high, self.noise = walk, churn_low, churn_high, churn_noise
        steps = len(walk.times) - 1
        self.gamma = min(churn / steps, math.sqrt(2.0) - 1.0)
        self.most = math.exp(-0.5 * walk.quantity(walk.sde.log_snr, walk.sde.ceiling))

    def __call__(self, x: Tensor, index: int) -> tuple[Tensor, Tensor]:
        walk = self.walk
        now = walk.sigma[index] / walk.alpha[index]
        later = min(now * (1.0 + self.gamma), self.most) if self.low <= now <= self.high else now
        if later <= now:
            return heun(walk, x, index)
        t = walk.quantity(walk.sde.time_at, -2.0 * math.log(later))
        raised = Walk(walk.ask, walk.sde, torch.tensor([t, walk.times[index + 1]], dtype=torch.float64), walk.noise)
        y = x / walk.alpha[index] + math.sqrt(later**2 - now**2) * self.noise * walk.noise(x)
        step = heun(raised, raised.alpha[0] * y, 0)
        walk.nfe += raised.nfe
        return step
