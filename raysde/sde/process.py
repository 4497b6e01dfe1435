"""What a forward SDE is, and what follows from its six quantities."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from raysde.sde.setting import setting

Score = Callable[[Tensor, Tensor], Tensor]
"""``score(x_t, t)``: x_t of shape [B, ...], t of shape [B], returns grad log p_t(x_t) of the shape of x_t."""


def expand(t: Tensor, x: Tensor) -> Tensor:
    """Appends singleton dimensions to ``t`` ([B] or scalar) until it broadcasts against ``x`` ([B, ...])."""
    if t.ndim == 0:
        return t
    return t.reshape(t.shape + (1,) * (x.ndim - t.ndim))


@dataclass(frozen=True, kw_only=True)
class SDE(ABC):
    """A linear forward SDE. A new process gives the six abstract quantities; everything else follows from them."""

    train_floor: float = setting(
        1e-5,
        "smallest t drawn in training and the end of a likelihood's integration (Song et al.: 1e-5); 0 where data at "
        "t = 0 have noise, as those of VE do",
    )
    sample_floor: float = setting(
        1e-3, "smallest t that a sampler integrates to (Song et al.: 1e-3 for VP, 1e-5 for VE); 0 as for train_floor"
    )
    ceiling: float = setting(
        1.0, "largest t of training, sampling and likelihoods; below 1 where drift and diffusion diverge at 1"
    )

    grid: ClassVar[Literal["time", "edm"]] = "time"
    """The time grid that suits its stochastic samplers."""
    network_time: ClassVar[Literal["t", "log_sigma/4"]] = "t"
    """The network's time unless it asks for another, see :class:`raysde.sde.parameterisation.Preconditioning`."""
    diffuses: ClassVar[bool] = True
    """True for a process that is defined by a forward SDE, so that Langevin correctors have a step size; a path between
    data and noise (Flow) has the SDE of its marginals only."""
    noisy_at_zero: ClassVar[bool] = False
    """True if sigma(0) > 0, so that t = 0 has a finite log-SNR."""

    def __post_init__(self) -> None:
        for name in ("train_floor", "sample_floor"):
            floor = getattr(self, name)
            if not 0.0 <= floor < 1.0 or (floor == 0.0 and not self.noisy_at_zero):
                raise ValueError(f"{name} must lie between 0 and 1, got {floor}")
        if not max(self.train_floor, self.sample_floor) < self.ceiling <= 1.0:
            raise ValueError(f"ceiling must lie above both floors and be at most 1, got {self.ceiling}")

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

    @property
    def discrete_steps(self) -> int:
        """N of the discrete process whose step i, counted from 0, is t = (i + 1) / N."""
        return 1000

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
        """Draws x at the ceiling, of the given shape, from N(0, prior_std^2)."""
        return self.prior_std * torch.randn(tuple(shape), generator=generator, device=device, dtype=dtype)

    def prior_log_prob(self, x: Tensor) -> Tensor:
        """log N(x; 0, prior_std^2) in nats, summed over all but the first dimension: [B]."""
        flat = x.reshape(len(x), -1)
        constant = flat.shape[1] * (0.5 * math.log(2.0 * math.pi) + math.log(self.prior_std))
        return -0.5 * (flat / self.prior_std).square().sum(dim=1) - constant
