"""The base class of forward SDEs: six abstract quantities, and everything that follows from them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from raysde.sde.setting import setting

Score = Callable[[Tensor, Tensor], Tensor]
"""A callable ``score(x_t, t)`` that maps x_t [B, ...] and t [B] to grad log p_t(x_t), of the shape of x_t."""


def expand(t: Tensor, x: Tensor) -> Tensor:
    """Return t ([B] or a scalar) with singleton dimensions appended until it broadcasts against x ([B, ...])."""
    if t.ndim == 0:
        return t
    return t.reshape(t.shape + (1,) * (x.ndim - t.ndim))


@dataclass(frozen=True, kw_only=True)
class SDE(ABC):
    """A linear forward SDE. A subclass defines six abstract quantities; the others follow from them.

    Results have the shape of t unless stated otherwise. A floor or ceiling out of range raises ValueError.
    """

    train_floor: float = setting(
        1e-5,
        "smallest t drawn in training and the end of a likelihood's integration (Song et al.: 1e-5); 0 is allowed "
        "where sigma(0) > 0, as for VE",
    )
    sample_floor: float = setting(
        1e-3, "smallest t that a sampler integrates to (Song et al.: 1e-3 for VP, 1e-5 for VE); 0 where sigma(0) > 0"
    )
    ceiling: float = setting(
        1.0, "largest t of training, sampling and likelihoods; below 1 where drift and diffusion diverge at 1"
    )

    grid: ClassVar[Literal["time", "edm"]] = "time"
    """Default time grid of stochastic samplers."""
    network_time: ClassVar[Literal["t", "log_sigma/4"]] = "t"
    """Default time input of the network, see :class:`raysde.sde.parameterisation.Preconditioning`."""
    diffuses: ClassVar[bool] = True
    """True if a forward SDE defines the process, so that Langevin correctors have a step size. False for a path between
    data and noise (Flow), which has only the SDE of its marginals."""
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
        """Return log alpha(t), the log of the signal coefficient, of the shape of t: E[x_t | x0] = alpha x0."""

    @abstractmethod
    def sigma2(self, t: Tensor) -> Tensor:
        """Return sigma(t)^2, the variance of x_t given x0, of the shape of t, accurate to rounding also where it is
        tiny."""

    @abstractmethod
    def drift_rate(self, t: Tensor) -> Tensor:
        """Return f(t) of the drift f(t) x, of the shape of t."""

    @abstractmethod
    def diffusion2(self, t: Tensor) -> Tensor:
        """Return g(t)^2, the rate at which variance is added, of the shape of t."""

    @abstractmethod
    def log_snr(self, t: Tensor) -> Tensor:
        """Return log(alpha^2 / sigma^2), natural logarithm, of the shape of t and strictly decreasing in t."""

    @abstractmethod
    def time_at(self, log_snr: Tensor) -> Tensor:
        """Return the time t with the given log-SNR, of the same shape; the inverse of :meth:`log_snr`."""

    @property
    def prior_std(self) -> float:
        """Standard deviation of the Gaussian prior, in units of the data."""
        return 1.0

    @property
    def discrete_steps(self) -> int:
        """Number of steps N of the discrete process whose step i (from 0) is t = (i + 1) / N."""
        return 1000

    def alpha(self, t: Tensor) -> Tensor:
        """Return alpha(t), the signal coefficient, of the shape of t: E[x_t | x0] = alpha x0."""
        return torch.exp(self.log_alpha(t))

    def alpha2(self, t: Tensor) -> Tensor:
        """Return alpha(t)^2, of the shape of t; the alpha-bar of discrete models."""
        return torch.exp(2.0 * self.log_alpha(t))

    def sigma(self, t: Tensor) -> Tensor:
        """Return sigma(t), the standard deviation of x_t given x0, of the shape of t and in units of the data."""
        return torch.sqrt(self.sigma2(t))

    def snr(self, t: Tensor) -> Tensor:
        """Return the signal-to-noise ratio alpha^2 / sigma^2, of the shape of t."""
        return torch.exp(self.log_snr(t))

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma of ``x_t = alpha x0 + sigma eps``, each of the shape of t."""
        return self.alpha(t), self.sigma(t)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the drift f(t) x for x [B, ...] and t [B], of the shape of x."""
        return expand(self.drift_rate(t), x) * x

    def diffusion(self, t: Tensor) -> Tensor:
        """Return the diffusion coefficient g(t), of the shape of t."""
        return torch.sqrt(self.diffusion2(t))

    def reverse_drift(self, x: Tensor, t: Tensor, score: Tensor) -> Tensor:
        """Return the drift f x - g^2 score of the reverse-time SDE (Anderson 1982; Song et al. eq. 6).

        Args:
            x, score: state and its score, both [B, ...]; the result has this shape.
            t: times, [B].
        """
        return self.drift(x, t) - expand(self.diffusion2(t), x) * score

    def probability_flow(self, x: Tensor, t: Tensor, score: Tensor) -> Tensor:
        """Return dx/dt = f x - g^2 score / 2 of the probability-flow ODE (Song et al. eq. 13).

        Args:
            x, score: state and its score, both [B, ...]; the result has this shape.
            t: times, [B].
        """
        return self.drift(x, t) - 0.5 * expand(self.diffusion2(t), x) * score

    def prior(
        self,
        shape: Sequence[int],
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Draw x at t = ``ceiling`` from the prior N(0, prior_std^2).

        Args:
            shape: shape of the result, such as [B, C, H, W].
            generator: source of randomness; None for PyTorch's default generator.
        """
        return self.prior_std * torch.randn(tuple(shape), generator=generator, device=device, dtype=dtype)

    def prior_log_prob(self, x: Tensor) -> Tensor:
        """Return log N(x; 0, prior_std^2) of x [B, ...] in nats, summed over all but the first dimension: [B]."""
        flat = x.reshape(len(x), -1)
        constant = flat.shape[1] * (0.5 * math.log(2.0 * math.pi) + math.log(self.prior_std))
        return -0.5 * (flat / self.prior_std).square().sum(dim=1) - constant
