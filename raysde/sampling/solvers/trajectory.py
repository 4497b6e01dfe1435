"""What every solver is given: the score, the SDE at the times of a grid, and noise."""

from collections.abc import Callable

import torch
from torch import Tensor

from raysde.rng import Noise
from raysde.sde import SDE, Score

Stepper = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""``step(x, i)``: from x at the grid's time i to time i + 1, with the step's noise and without it."""


class Walk:
    """A score on a grid of times.

    Coefficients are Python floats computed in float64 once, so that no step waits for the device.

    Args:
        score: ``score(x_t, t)`` with t of shape [B].
        times: falling, float64.

    Attributes:
        alpha, sigma: of the marginal at each time.
        half_log_snr: lambda = log(alpha / sigma) at each time, the variable of the fast solvers; it rises.
        nfe: how often the score was asked.
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
        """The score of x at one time for all rows."""
        self.nfe += 1
        return self.ask(x, torch.full((len(x),), t, dtype=x.dtype, device=x.device))

    def eps(self, x: Tensor, index: int) -> Tensor:
        """The predicted noise at a time of the grid."""
        return -self.sigma[index] * self.score(x, self.times[index])

    def x0(self, x: Tensor, index: int) -> Tensor:
        """The predicted clean data at a time of the grid (Tweedie's formula)."""
        return (x + self.sigma[index] ** 2 * self.score(x, self.times[index])) / self.alpha[index]

    def quantity(self, function: Callable[[Tensor], Tensor], t: float) -> float:
        """A quantity of the SDE at any time."""
        return function(torch.tensor(t, dtype=torch.float64)).item()

    def transition(self, index: int) -> tuple[float, float]:
        """a and b^2 of the exact forward step x_t = a x_s + b z that a solver undoes from time index to index + 1."""
        a = self.alpha[index] / self.alpha[index + 1]
        return a, self.sigma[index] ** 2 - (a * self.sigma[index + 1]) ** 2
