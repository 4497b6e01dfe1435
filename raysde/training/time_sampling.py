"""Distributions of training times t on [0, 1], each defined by its quantile function.

A quantile function maps one uniform number per row to its time. A global batch is therefore stratified for every
distribution, with one time in each of ``batch`` strata of equal probability, however it is cut into microbatches.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from raysde.sde import EDM, SDE
from raysde.sde.setting import setting


def draw_stratified(offset: Tensor, index: int, count: int, batch: int) -> Tensor:
    """Return uniform numbers in [0, 1) for rows ``index`` to ``index + count`` of a global batch: [count], float64.

    The global batch has one number in each of ``batch`` equal intervals, all shifted by ``offset``, a scalar in [0, 1).
    """
    places = torch.arange(index, index + count, dtype=torch.float64, device=offset.device)
    return torch.remainder((places + offset.double()) / batch, 1.0)


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """Times uniform in t, from the SDE's training floor to its ceiling (Song et al. 2021)."""

    kind: Literal["uniform"] = "uniform"

    def quantile(self, sde: SDE, u: Tensor) -> Tensor:
        """Return the times at the probabilities u in [0, 1], of the shape of u."""
        return sde.train_floor + (sde.ceiling - sde.train_floor) * u

    def correction(self, sde: SDE, t: Tensor) -> Tensor:
        """Return the factor on the loss at t [B]: 1."""
        return torch.ones_like(t)


@dataclass(frozen=True, kw_only=True)
class LogNormal(Uniform):
    """Times with normally distributed log(sigma / alpha) (Karras et al. 2022, table 1).

    Raises:
        ValueError: if ``std`` is not positive.
    """

    kind: Literal["lognormal"] = "lognormal"  # type: ignore[assignment]
    mean: float = setting(-1.2, "mean of log(sigma / alpha)")
    std: float = setting(1.2, "standard deviation of log(sigma / alpha)")

    def __post_init__(self) -> None:
        if self.std <= 0.0:
            raise ValueError(f"std must be positive, got {self.std}")

    def quantile(self, sde: SDE, u: Tensor) -> Tensor:
        normal = math.sqrt(2.0) * torch.erfinv((2.0 * u - 1.0).clamp(-1.0 + 1e-15, 1.0 - 1e-15))
        return sde.time_at(-2.0 * (self.mean + self.std * normal)).clamp(sde.train_floor, sde.ceiling)


@dataclass(frozen=True, kw_only=True)
class UniformLogSnr(Uniform):
    """Times uniform in log-SNR between its values at the training floor and the ceiling."""

    kind: Literal["log_snr"] = "log_snr"  # type: ignore[assignment]

    def quantile(self, sde: SDE, u: Tensor) -> Tensor:
        high, low = log_snr_range(sde)
        return sde.time_at(high + (low - high) * u).clamp(sde.train_floor, sde.ceiling)


@dataclass(frozen=True, kw_only=True)
class Importance(UniformLogSnr):
    """Importance sampling for the likelihood weighting; the loss is divided by the density, so it is unbiased.

    The best density is proportional to g^2 / sigma^2 (Song et al. 2021b, arXiv 2101.09258, section 4.4), and g^2 /
    sigma^2 = -d log_snr / dt for every linear SDE: log-SNR is uniform. For VE that is uniform t.
    """

    kind: Literal["importance"] = "importance"  # type: ignore[assignment]

    def correction(self, sde: SDE, t: Tensor) -> Tensor:
        """Return 1 / p(t) relative to uniform t, with the shape of t."""
        high, low = log_snr_range(sde)
        return (high - low) / (sde.ceiling - sde.train_floor) * sde.sigma2(t) / sde.diffusion2(t)


Times = Uniform | LogNormal | UniformLogSnr | Importance


def log_snr_range(sde: SDE) -> tuple[float, float]:
    """Return the SDE's largest and smallest log-SNR of training, at t = ``train_floor`` and at t = ``ceiling``."""
    ends = sde.log_snr(torch.tensor([sde.train_floor, sde.ceiling], dtype=torch.float64)).tolist()
    return ends[0], ends[1]


def default_time_sampling(sde: SDE) -> Uniform:
    """Return the time distribution of the SDE's authors: log-normal for EDM, otherwise uniform."""
    return LogNormal() if isinstance(sde, EDM) else Uniform()
