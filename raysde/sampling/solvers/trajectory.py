"""The state that every solver shares: the score, the SDE at the times of a grid, and the noise source."""

from collections.abc import Callable

import torch
from torch import Tensor

from raysde.rng import Noise
from raysde.sde import SDE, Score

Stepper = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""A callable ``step(x, i)`` that moves x from the grid's time i to time i + 1, with the step's noise and without it.

x and both results are [B, ...].
"""


class Walk:
    """A score on a time grid.

    Coefficients are Python floats, computed once in float64, so that no step waits for the device.

    Args:
        score: ``score(x_t, t)`` with x_t [B, ...] and t [B].
        times: falling times, float64 [steps + 1].
        noise: returns standard normal noise of the shape of its argument.

    Attributes:
        alpha, sigma: coefficients of the marginal at each time.
        half_log_snr: lambda = log(alpha / sigma) at each time, rising; the variable of the fast solvers.
        nfe: number of score evaluations so far.
    """

    def __init__(self, score: Score, sde: SDE, times: Tensor, noise: Noise) -> None:
        self.ask, self.sde, self.noise = score, sde, noise
        self.times: list[float] = times.tolist()
        alpha, sigma = sde.marginal(times)
        self.alpha: list[float] = alpha.tolist()
        self.sigma: list[float] = sigma.tolist()
        self.half_log_snr: list[float] = (0.5 * sde.log_snr(times)).tolist()
        self.nfe = 0

    def score(self, x: Tensor, t: float) -> Tensor:
        """Return the score of x [B, ...] at time t for all rows, and count the evaluation."""
        self.nfe += 1
        return self.ask(x, torch.full((len(x),), t, dtype=x.dtype, device=x.device))

    def eps(self, x: Tensor, index: int) -> Tensor:
        """Return the predicted noise at the grid's time ``index``, of the shape of x [B, ...]."""
        return -self.sigma[index] * self.score(x, self.times[index])

    def x0(self, x: Tensor, index: int) -> Tensor:
        """Return the predicted clean data at the grid's time ``index`` by Tweedie's formula, of the shape of x [B,
        ...]."""
        return (x + self.sigma[index] ** 2 * self.score(x, self.times[index])) / self.alpha[index]

    def quantity(self, function: Callable[[Tensor], Tensor], t: float) -> float:
        """Return a function of the SDE at any time t as a Python float, computed in float64.

        Args:
            function: method of the SDE that maps a tensor of times to one of the same shape, such as ``sde.alpha``.
        """
        return function(torch.tensor(t, dtype=torch.float64)).item()

    def transition(self, index: int) -> tuple[float, float]:
        """Return a and b^2 of the exact forward step x_t = a x_s + b z from time ``index + 1`` to ``index``."""
        a = self.alpha[index] / self.alpha[index + 1]
        return a, self.sigma[index] ** 2 - (a * self.sigma[index + 1]) ** 2
