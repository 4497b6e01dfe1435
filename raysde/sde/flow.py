"""The straight path between data and noise (Lipman et al. 2023)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from raysde.sde.process import SDE
from raysde.sde.setting import setting


@dataclass(frozen=True, kw_only=True)
class Flow(SDE):
    """Flow matching's linear path, alpha = 1 - t and sigma = t (Lipman et al. 2023, arXiv 2210.02747).

    Lipman's own t is 1 - t here. The velocity of the path is E[eps - x0]. Drift and diffusion are those of the SDE with
    the same marginals, f = -1 / (1 - t) and g^2 = 2 t / (1 - t). Both diverge at t = 1; times end at ``ceiling``.
    """

    kind: Literal["flow"] = "flow"
    ceiling: float = setting(
        0.999, "largest t of training, sampling and likelihoods, where alpha is 0.001; drift and diffusion diverge at 1"
    )

    diffuses: ClassVar[bool] = False

    @property
    def prior_std(self) -> float:
        return self.ceiling

    def log_alpha(self, t: Tensor) -> Tensor:
        return torch.log1p(-t)

    def alpha(self, t: Tensor) -> Tensor:
        return 1.0 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t.clone()

    def sigma2(self, t: Tensor) -> Tensor:
        return t.square()

    def drift_rate(self, t: Tensor) -> Tensor:
        return -1.0 / (1.0 - t)

    def diffusion2(self, t: Tensor) -> Tensor:
        return 2.0 * t / (1.0 - t)

    def log_snr(self, t: Tensor) -> Tensor:
        return 2.0 * (torch.log1p(-t) - torch.log(t))

    def time_at(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-0.5 * log_snr)
