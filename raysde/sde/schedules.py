"""Schedules of beta(t): the rate, its integral B(t) from 0 to t, and the inverse of B.

Each function maps a tensor to one of the same shape.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(frozen=True)
class LinearBeta:
    """The schedule beta(t) = beta_min + t (beta_max - beta_min) (Song et al. eq. 32).

    ``beta`` and ``integral`` map t in [0, 1] to beta and B, ``inverse_integral`` maps B to t, each of the same shape.

    Raises:
        ValueError: unless 0 < beta_min <= beta_max.
    """

    beta_min: float
    beta_max: float

    def __post_init__(self) -> None:
        if not 0.0 < self.beta_min <= self.beta_max:
            raise ValueError(
                f"beta_min must lie in (0, beta_max], got beta_min={self.beta_min}, beta_max={self.beta_max}"
            )

    def beta(self, t: Tensor) -> Tensor:
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def integral(self, t: Tensor) -> Tensor:
        return t * (self.beta_min + 0.5 * t * (self.beta_max - self.beta_min))

    def inverse_integral(self, integral: Tensor) -> Tensor:
        slope = 2.0 * (self.beta_max - self.beta_min) * integral
        return 2.0 * integral / (self.beta_min + torch.sqrt(self.beta_min**2 + slope))


@dataclass(frozen=True)
class CosineBeta:
    """The schedule alpha(t) = cos u / cos u0 with u = (end t + s) / (1 + s) pi / 2 (Nichol and Dhariwal eq. 17).

    Its beta diverges where alpha reaches 0. So time runs to ``end`` < 1 instead of clipping beta (Lu et al. 2022,
    DPM-Solver, appendix D: 0.9946, log-SNR -9.5), which keeps beta, its integral and alpha consistent.

    ``beta`` and ``integral`` map t in [0, 1] to beta and B, ``inverse_integral`` maps B to t, each of the same shape.

    Raises:
        ValueError: unless s > 0 and 0 < end < 1.
    """

    s: float
    end: float

    def __post_init__(self) -> None:
        if self.s <= 0.0:
            raise ValueError(f"cosine_s must be positive, got {self.s}")
        if not 0.0 < self.end < 1.0:
            raise ValueError(f"cosine_end must lie between 0 and 1, got {self.end}")

    @property
    def rate(self) -> float:
        """The derivative du/dt."""
        return self.end / (1.0 + self.s) * math.pi / 2.0

    @property
    def start(self) -> float:
        """The angle u at t = 0, in radians."""
        return self.s / (1.0 + self.s) * math.pi / 2.0

    def beta(self, t: Tensor) -> Tensor:
        return 2.0 * self.rate * torch.tan(self.start + self.rate * t)

    def integral(self, t: Tensor) -> Tensor:
        # cos u0 - cos u written as a product avoids cancellation at small t
        half = 0.5 * self.rate * t
        lost = 2.0 * torch.sin(self.start + half) * torch.sin(half) / math.cos(self.start)
        return -2.0 * torch.log1p(-lost)

    def inverse_integral(self, integral: Tensor) -> Tensor:
        sin_start, cos_start = math.sin(self.start), math.cos(self.start)
        # sin^2 u - sin^2 u0 = cos^2 u0 (1 - exp(-B)), then sin u - sin u0, then u - u0, each without cancellation
        gained = cos_start**2 * -torch.expm1(-integral)
        sin_u = torch.sqrt(sin_start**2 + gained)
        u = torch.atan2(sin_u, cos_start * torch.exp(-0.5 * integral))
        middle = torch.cos(0.5 * (u + self.start))
        return 2.0 * torch.asin(0.5 * gained / (sin_u + sin_start) / middle) / self.rate


class TableBeta:
    """A discrete process made continuous: alpha^2 at t = i / N is the table's i-th entry, and 1 at t = 0.

    A monotone cubic (Fritsch and Carlson 1980) interpolates B = -log alpha-bar, so beta = -d log alpha-bar / dt is
    positive and continuous. Linear interpolation would make beta jump, which slows adaptive solvers.

    ``beta`` and ``integral`` map t in [0, 1] to beta and B, ``inverse_integral`` maps B to t, each of the same shape.

    Raises:
        ValueError: if the table does not fall strictly between 1 and 0.
    """

    def __init__(self, alphas_cumprod: tuple[float, ...]) -> None:
        ends = (1.0, *alphas_cumprod)
        if not alphas_cumprod or any(not 0.0 < later < earlier for earlier, later in pairwise(ends)):
            raise ValueError("alphas_cumprod must fall from below 1 to above 0, one entry for each step")
        self.steps = len(alphas_cumprod)
        knots = -torch.log(torch.tensor(ends, dtype=torch.float64))
        rises = knots.diff()
        slopes = _monotone_slopes(rises)
        # B = c0 + c1 u + c2 u^2 + c3 u^3 with u from 0 to 1 over a step
        bend = 3.0 * rises - 2.0 * slopes[:-1] - slopes[1:]
        self.cubic = torch.stack([knots[:-1], slopes[:-1], bend, slopes[:-1] + slopes[1:] - 2.0 * rises])
        self.knots = knots

    def beta(self, t: Tensor) -> Tensor:
        cell = self._cell(t)
        return self.steps * self._rate(t * self.steps - cell, cell)

    def integral(self, t: Tensor) -> Tensor:
        cell = self._cell(t)
        return self._value(t * self.steps - cell, cell)

    def inverse_integral(self, integral: Tensor) -> Tensor:
        knots = self.knots.to(integral)
        cell = torch.searchsorted(knots, integral.detach().contiguous(), right=True).sub(1).clamp(0, self.steps - 1)
        u = (integral - _look_up(knots, cell)) / _look_up(knots.diff(), cell)
        for _ in range(8):
            u = (u - (self._value(u, cell) - integral) / self._rate(u, cell)).clamp(0.0, 1.0)
        return (cell + u) / self.steps

    def _value(self, u: Tensor, cell: Tensor) -> Tensor:
        c0, c1, c2, c3 = (_look_up(row, cell) for row in self.cubic.to(u))
        return c0 + u * (c1 + u * (c2 + u * c3))

    def _rate(self, u: Tensor, cell: Tensor) -> Tensor:
        _, c1, c2, c3 = (_look_up(row, cell) for row in self.cubic.to(u))
        return c1 + u * (2.0 * c2 + u * 3.0 * c3)

    def _cell(self, t: Tensor) -> Tensor:
        return (t.detach() * self.steps).floor().long().clamp(0, self.steps - 1)


def _monotone_slopes(rises: Tensor) -> Tensor:
    """Return the slopes [N + 1] at equidistant knots whose values rise by ``rises`` [N].

    Inner slopes are harmonic means, end slopes those of parabolas, clamped so that the cubic does not fall.
    """
    if len(rises) == 1:
        return rises.expand(2)
    inside = 2.0 / (1.0 / rises[:-1] + 1.0 / rises[1:])
    ends = [1.5 * rises[a] - 0.5 * rises[b] for a, b in ((0, 1), (-1, -2))]
    first, last = (torch.clamp(end, 0.1 * rise, 3.0 * rise) for end, rise in zip(ends, rises[[0, -1]], strict=True))
    return torch.cat([first[None], inside, last[None]])


def _look_up(table: Tensor, place: Tensor) -> Tensor:
    """Return table[place] for integer places of any shape, also under vmap."""
    return table.index_select(0, place.reshape(-1)).reshape(place.shape)
