"""The variance-exploding family: alpha = 1, so noise is added and the signal is not scaled (Song et al. 2021)."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from raysde.sde.process import SDE
from raysde.sde.setting import setting


@dataclass(frozen=True, kw_only=True)
class VE(SDE):
    """Variance exploding: dx = g dw with sigma(t) = sigma_min (sigma_max / sigma_min)^t (Song et al. eq. 30).

    sigma(0) = sigma_min, as in Song's code; the kernel of the SDE alone would have variance sigma(t)^2 - sigma_min^2. A
    likelihood is therefore that of p at noise level sigma_min (Karras et al. 2022, appendix C). Song and Ermon 2020
    recommend the largest distance between two data points as sigma_max.
    """

    kind: Literal["ve"] = "ve"
    sigma_min: float = setting(
        0.01, "standard deviation of the noise at t = 0, in units of the data range; invisible in images"
    )
    sigma_max: float = setting(
        50.0,
        "standard deviation of the noise at t = 1, in units of the data range; about the largest distance between two "
        "images, which data.sigma_max_rows measures",
    )
    sample_floor: float = setting(1e-5, "smallest t that a sampler integrates to; 0 is allowed, since sigma(0) > 0")

    noisy_at_zero: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.sigma_min < self.sigma_max:
            raise ValueError(
                "sigma_min must lie between 0 and sigma_max, "
                f"got sigma_min={self.sigma_min}, sigma_max={self.sigma_max}"
            )

    @classmethod
    def for_data(cls, x0: Tensor, sigma_min: float = 0.01) -> Self:
        """Return a VE process whose sigma_max is the largest distance between two of the data points x0 [B, ...].

        Raises:
            ValueError: if there are fewer than two data points, or all are closer than sigma_min.
        """
        if len(x0) < 2:
            raise ValueError(f"sigma_max needs at least two data points, got {len(x0)}")
        flat = x0.flatten(1).double()
        return cls(sigma_min=sigma_min, sigma_max=torch.cdist(flat, flat).max().item())

    @property
    def log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    @property
    def prior_std(self) -> float:
        return self.sigma_min * math.exp(self.log_ratio * self.ceiling)

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


@dataclass(frozen=True, kw_only=True)
class EDM(SDE):
    """The process of Karras et al. 2022 (arXiv 2206.00364): sigma(t) = sigma_max t, alpha = 1.

    Karras et al. use sigma itself as the time, dx = sqrt(2 sigma) dw. The default floors correspond to their sigma_min
    = 0.002 with sigma_max = 80. Unlike VE, sigma(0) = 0: a likelihood is that of the data.
    """

    kind: Literal["edm"] = "edm"
    sigma_max: float = setting(
        80.0, "standard deviation of the noise at t = 1, in units of the data range (Karras et al.: 80)"
    )
    train_floor: float = setting(2.5e-5, "smallest t drawn in training and the end of a likelihood's integration")
    sample_floor: float = setting(2.5e-5, "smallest t that a sampler integrates to")

    grid: ClassVar[Literal["time", "edm"]] = "edm"
    network_time: ClassVar[Literal["t", "log_sigma/4"]] = "log_sigma/4"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma_max <= 0.0:
            raise ValueError(f"sigma_max must be positive, got {self.sigma_max}")

    @property
    def prior_std(self) -> float:
        return self.sigma_max * self.ceiling

    def log_alpha(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_max * t

    def sigma2(self, t: Tensor) -> Tensor:
        return self.sigma(t).square()

    def drift_rate(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def diffusion2(self, t: Tensor) -> Tensor:
        return 2.0 * self.sigma_max**2 * t

    def log_snr(self, t: Tensor) -> Tensor:
        return -2.0 * (math.log(self.sigma_max) + torch.log(t))

    def time_at(self, log_snr: Tensor) -> Tensor:
        return torch.exp(-0.5 * log_snr) / self.sigma_max
