"""Forward SDEs  dx = f(t) x dt + g(t) dw  on t in [0, 1]: t = 0 is data, t = 1 is noise.

Every process here is linear and Gaussian, so one pair of numbers describes it:
``x_t = alpha * x0 + sigma * eps`` with ``alpha, sigma = sde.marginal(t)``. Losses, parameterisations, solvers and
likelihoods ask the SDE for what they need and never look at its class.

Times are tensors of any shape; ``x`` may have any shape whose leading dimension is the batch. A time of shape [B]
is broadcast against x of shape [B, ...] by :func:`expand`, once.

Sources: Song et al. 2021 (arXiv 2011.13456) for VP, sub-VP and VE; Nichol and Dhariwal 2021 (arXiv 2102.09672)
for the cosine schedule.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from raysde.schedules import CosineBeta, LinearBeta

Score = Callable[[Tensor, Tensor], Tensor]
"""``score(x_t, t)``: x_t of shape [B, ...], t of shape [B], returns grad log p_t(x_t) of the shape of x_t."""


def expand(t: Tensor, x: Tensor) -> Tensor:
    """Appends singleton dimensions to ``t`` ([B] or scalar) until it broadcasts against ``x`` ([B, ...])."""
    if t.ndim == 0:
        return t
    return t.reshape(t.shape + (1,) * (x.ndim - t.ndim))


@dataclass(frozen=True, kw_only=True)
class SDE(ABC):
    """A linear forward SDE. A new process gives the six abstract quantities; everything else follows from them.

    Attributes:
        train_floor: smallest t drawn in training and the end of a likelihood's integration (Song et al.: 1e-5).
        sample_floor: smallest t that a sampler integrates to (Song et al.: 1e-3 for VP, 1e-5 for VE).
    """

    train_floor: float = 1e-5
    sample_floor: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("train_floor", "sample_floor"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise ValueError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")

    @abstractmethod
    def log_alpha(self, t: Tensor) -> Tensor:
        """log of the signal's coefficient, so that E[x_t | x0] = exp(log_alpha) x0."""

    @abstractmethod
    def sigma2(self, t: Tensor) -> Tensor:
        """Variance of x_t given x0, accurate to rounding also where it is tiny."""

    @abstractmethod
    def drift_rate(self, t: Tensor) -> Tensor:
        """f(t) of the drift f(t) x."""

    @abstractmethod
    def diffusion2(self, t: Tensor) -> Tensor:
        """g(t)^2, the rate at which variance enters."""

    @abstractmethod
    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha^2 / sigma^2), strictly decreasing in t."""

    @abstractmethod
    def time_at(self, log_snr: Tensor) -> Tensor:
        """The inverse of :meth:`log_snr`."""

    @property
    def prior_std(self) -> float:
        """Standard deviation of the Gaussian that sampling starts from."""
        return 1.0

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(self.log_alpha(t))

    def alpha2(self, t: Tensor) -> Tensor:
        return torch.exp(2.0 * self.log_alpha(t))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(self.sigma2(t))

    def snr(self, t: Tensor) -> Tensor:
        """alpha^2 / sigma^2."""
        return torch.exp(self.log_snr(t))

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma of ``x_t = alpha x0 + sigma eps``, each of the shape of t."""
        return self.alpha(t), self.sigma(t)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """f(t) x, of the shape of x."""
        return expand(self.drift_rate(t), x) * x

    def diffusion(self, t: Tensor) -> Tensor:
        """g(t), of the shape of t."""
        return torch.sqrt(self.diffusion2(t))

    def reverse_drift(self, x: Tensor, t: Tensor, score: Tensor) -> Tensor:
        """Drift of the reverse-time SDE, f x - g^2 score (Anderson 1982; Song et al. eq. 6)."""
        return self.drift(x, t) - expand(self.diffusion2(t), x) * score

    def probability_flow(self, x: Tensor, t: Tensor, score: Tensor) -> Tensor:
        """dx/dt of the ODE with the same marginals, f x - g^2 score / 2 (Song et al. eq. 13)."""
        return self.drift(x, t) - 0.5 * expand(self.diffusion2(t), x) * score

    def prior(
        self,
        shape: Sequence[int],
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Draws x_1 of the given shape from N(0, prior_std^2)."""
        return self.prior_std * torch.randn(tuple(shape), generator=generator, device=device, dtype=dtype)

    def prior_log_prob(self, x: Tensor) -> Tensor:
        """log N(x; 0, prior_std^2) in nats, summed over all but the first dimension: [B]."""
        flat = x.reshape(len(x), -1)
        constant = flat.shape[1] * (0.5 * math.log(2.0 * math.pi) + math.log(self.prior_std))
        return -0.5 * (flat / self.prior_std).square().sum(dim=1) - constant


@dataclass(frozen=True, kw_only=True)
class BetaSDE(SDE):
    """What VP and sub-VP share: the drift -beta x / 2 and the schedule of beta.

    Attributes:
        schedule: "linear" in beta, or "cosine" in alpha.
        beta_min, beta_max: of the linear schedule.
        cosine_s, cosine_end: of the cosine schedule, see :class:`CosineBeta`.
    """

    schedule: Literal["linear", "cosine"] = "linear"
    beta_min: float = 0.1
    beta_max: float = 20.0
    cosine_s: float = 0.008
    cosine_end: float = 0.9946

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.schedule not in ("linear", "cosine"):
            raise ValueError(f"schedule must be 'linear' or 'cosine', got {self.schedule!r}")
        unused = ("cosine_s", "cosine_end") if self.schedule == "linear" else ("beta_min", "beta_max")
        for name in unused:
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise ValueError(f"{name} has no effect on the {self.schedule} schedule")
        _ = self.betas

    @property
    def betas(self) -> LinearBeta | CosineBeta:
        if self.schedule == "linear":
            return LinearBeta(self.beta_min, self.beta_max)
        return CosineBeta(self.cosine_s, self.cosine_end)

    def beta(self, t: Tensor) -> Tensor:
        return self.betas.beta(t)

    def beta_integral(self, t: Tensor) -> Tensor:
        """B(t), the integral of beta from 0 to t."""
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


@dataclass(frozen=True, kw_only=True)
class VE(SDE):
    """Variance exploding: dx = g dw with sigma(t) = sigma_min (sigma_max / sigma_min)^t (Song et al. eq. 30).

    sigma(0) = sigma_min, as in Song's code: the kernel of the SDE alone would be sigma(t)^2 - sigma_min^2, and the
    difference means that a likelihood is that of p at noise level sigma_min (Karras et al. 2022, appendix C).
    Rule of Song and Ermon 2020: sigma_max is the largest distance between two data points.
    """

    kind: Literal["ve"] = "ve"
    sigma_min: float = 0.01
    sigma_max: float = 50.0
    sample_floor: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.sigma_min < self.sigma_max:
            raise ValueError(
                "sigma_min must lie between 0 and sigma_max, "
                f"got sigma_min={self.sigma_min}, sigma_max={self.sigma_max}"
            )

    @property
    def log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    @property
    def prior_std(self) -> float:
        return self.sigma_max

    def log_alpha(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.exp(self.log_ratio * t)

    def sigma2(self, t: Tensor) -> Tensor:
        return self.sigma(t).square()

    def drift_rate(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def diffusion2(self, t: Tensor) -> Tensor:
        return 2.0 * self.log_ratio * self.sigma2(t)

    def log_snr(self, t: Tensor) -> Tensor:
        return -2.0 * (math.log(self.sigma_min) + self.log_ratio * t)

    def time_at(self, log_snr: Tensor) -> Tensor:
        return (-0.5 * log_snr - math.log(self.sigma_min)) / self.log_ratio


AnySDE = VP | SubVP | VE
