"""The variance-preserving family: processes whose drift is -beta x / 2 (Song et al. 2021)."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from raysde.sde.process import SDE
from raysde.sde.schedules import CosineBeta, LinearBeta, TableBeta
from raysde.sde.setting import setting

TABLE = lru_cache(maxsize=8)(TableBeta)


SCHEDULE_KEYS = {
    "linear": ("beta_min", "beta_max"),
    "cosine": ("cosine_s", "cosine_end"),
    "table": ("alphas_cumprod",),
}


@dataclass(frozen=True, kw_only=True)
class BetaSDE(SDE):
    """A process with drift -beta x / 2 and a schedule of beta: the common base of VP and sub-VP.

    Raises:
        ValueError: if a key of another schedule is set, or a key is out of range.
    """

    schedule: Literal["linear", "cosine", "table"] = setting(
        "linear", "noise schedule: linear in beta, cosine in alpha, or the table of a discrete process"
    )
    beta_min: float = setting(0.1, "beta at t = 0 of the linear schedule")
    beta_max: float = setting(20.0, "beta at t = 1 of the linear schedule")
    cosine_s: float = setting(0.008, "offset s of the cosine schedule (Nichol and Dhariwal 2021)")
    cosine_end: float = setting(0.9946, "fraction of the cosine schedule reached at t = 1, below 1 to keep beta finite")
    alphas_cumprod: tuple[float, ...] = setting(
        (), "table of alpha^2 after each step of a discrete process (DDPM's alpha-bar)"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.schedule not in SCHEDULE_KEYS:
            raise ValueError(f"schedule must be one of {', '.join(SCHEDULE_KEYS)}, got {self.schedule!r}")
        for schedule, names in SCHEDULE_KEYS.items():
            for name in names if schedule != self.schedule else ():
                if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                    raise ValueError(f"{name} has no effect on the {self.schedule} schedule; leave it out")
        _ = self.betas

    @property
    def betas(self) -> LinearBeta | CosineBeta | TableBeta:
        if self.schedule == "linear":
            return LinearBeta(self.beta_min, self.beta_max)
        if self.schedule == "cosine":
            return CosineBeta(self.cosine_s, self.cosine_end)
        return TABLE(self.alphas_cumprod)

    @property
    def discrete_steps(self) -> int:
        return len(self.alphas_cumprod) or 1000

    def beta(self, t: Tensor) -> Tensor:
        """Return the noise rate beta(t), of the shape of t."""
        return self.betas.beta(t)

    def beta_integral(self, t: Tensor) -> Tensor:
        """Return B(t), the integral of beta from 0 to t, of the shape of t."""
        return self.betas.integral(t)

    def log_alpha(self, t: Tensor) -> Tensor:
        return -0.5 * self.beta_integral(t)

    def drift_rate(self, t: Tensor) -> Tensor:
        return -0.5 * self.beta(t)


@dataclass(frozen=True, kw_only=True)
class VP(BetaSDE):
    """Variance preserving: dx = -beta x / 2 dt + sqrt(beta) dw (Song et al. eq. 11); sigma^2 = 1 - exp(-B)."""

    kind: Literal["vp"] = "vp"

    def sigma2(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self.beta_integral(t))

    def diffusion2(self, t: Tensor) -> Tensor:
        return self.beta(t)

    def log_snr(self, t: Tensor) -> Tensor:
        integral = self.beta_integral(t)
        return -integral - torch.log(-torch.expm1(-integral))

    def time_at(self, log_snr: Tensor) -> Tensor:
        return self.betas.inverse_integral(torch.nn.functional.softplus(-log_snr, threshold=40.0))


@dataclass(frozen=True, kw_only=True)
class SubVP(BetaSDE):
    """Sub-VP: the drift of VP with g^2 = beta (1 - exp(-2B)), so sigma = 1 - exp(-B) (Song et al. eq. 28 and 29)."""

    kind: Literal["sub_vp"] = "sub_vp"

    def sigma2(self, t: Tensor) -> Tensor:
        return self.sigma(t).square()

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self.beta_integral(t))

    def diffusion2(self, t: Tensor) -> Tensor:
        return self.beta(t) * -torch.expm1(-2.0 * self.beta_integral(t))

    def log_snr(self, t: Tensor) -> Tensor:
        integral = self.beta_integral(t)
        return -integral - 2.0 * torch.log(-torch.expm1(-integral))

    def time_at(self, log_snr: Tensor) -> Tensor:
        return self.betas.inverse_integral(2.0 * torch.asinh(0.5 * torch.exp(-0.5 * log_snr)))
