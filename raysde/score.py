"""From a network's output to the score, and between the things a network can be asked for.

The network predicts one ``target``; each of them determines the others through ``x_t = alpha x0 + sigma eps``:

    noise   eps
    score   grad log p_t = -eps / sigma
    x0      the clean image
    v       alpha eps - sigma x0 (Salimans and Ho 2022, arXiv 2202.00512), here for any alpha and sigma

The network's output has unit size at every t: it is the target divided by :func:`output_scale`, which is 1 / sigma for
the score (Song et al.) and sqrt(alpha^2 + sigma^2) for v, 1 for VP.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from raysde.conditioning import Condition, Conditioner, Encoded
from raysde.sde import SDE, expand

Target = Literal["noise", "score", "x0", "v"]
TARGETS: tuple[Target, ...] = ("noise", "score", "x0", "v")


def eps_from(target: Target, value: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The noise that a predicted ``value`` of ``target`` implies; alpha and sigma broadcast against x_t."""
    if target == "noise":
        return value
    if target == "score":
        return -sigma * value
    if target == "x0":
        return (x_t - alpha * value) / sigma
    return (alpha * value + sigma * x_t) / (alpha.square() + sigma.square())


def x0_from(target: Target, value: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The clean image that a predicted ``value`` of ``target`` implies."""
    if target == "x0":
        return value
    if target == "v":
        return (alpha * x_t - sigma * value) / (alpha.square() + sigma.square())
    return (x_t - sigma * eps_from(target, value, x_t, alpha, sigma)) / alpha


def target_of(target: Target, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The value of ``target`` that belongs to clean images and noise."""
    if target == "noise":
        return eps
    if target == "score":
        return -eps / sigma
    if target == "x0":
        return x0
    return alpha * eps - sigma * x0


def output_scale(target: Target, alpha: Tensor, sigma: Tensor) -> Tensor:
    """What the network's output is multiplied by to give the target."""
    if target == "score":
        return 1.0 / sigma
    if target == "v":
        return torch.sqrt(alpha.square() + sigma.square())
    return torch.ones_like(sigma)


class ScoreModel(nn.Module):
    """A score network with everything that gives its output a meaning.

    Args:
        network: called as ``network(x, t, pooled, context, mask)`` (x and t alone when unconditional).
        conditioner: captions and labels to vectors.
        sde: the forward process.
        target: what the network predicts.
        data_std: standard deviation of a pixel; the network sees x_t divided by sqrt(alpha^2 data_std^2 + sigma^2),
            which has unit variance at every t (Karras et al. 2022, table 1, c_in).
    """

    def __init__(self, network: nn.Module, conditioner: Conditioner, sde: SDE, target: Target, data_std: float) -> None:
        super().__init__()
        self.network, self.conditioner = network, conditioner
        self.sde, self.target, self.data_std = sde, target, data_std

    def predict(self, x_t: Tensor, t: Tensor, encoded: Encoded) -> Tensor:
        """The network's output in the type of x_t: the target divided by :func:`output_scale`."""
        alpha, sigma = (expand(value, x_t) for value in self.sde.marginal(t))
        scaled = x_t / torch.sqrt((alpha * self.data_std).square() + sigma.square())
        if self.conditioner.width is None:
            output = self.network(scaled, t)
        else:
            output = self.network(scaled, t, encoded.pooled, encoded.context, encoded.mask)
        return output.to(x_t.dtype)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The network's output for x_t [B, C, H, W] at t [B] under ``condition``."""
        return self.predict(x_t, t, self.conditioner(condition))

    def value(self, x_t: Tensor, t: Tensor, encoded: Encoded) -> Tensor:
        """The predicted value of the target."""
        alpha, sigma = (expand(value, x_t) for value in self.sde.marginal(t))
        return self.predict(x_t, t, encoded) * output_scale(self.target, alpha, sigma)

    def eps_hat(self, x_t: Tensor, t: Tensor, encoded: Encoded) -> Tensor:
        """The predicted noise."""
        alpha, sigma = (expand(value, x_t) for value in self.sde.marginal(t))
        return eps_from(self.target, self.value(x_t, t, encoded), x_t, alpha, sigma)

    def x0_hat(self, x_t: Tensor, t: Tensor, encoded: Encoded) -> Tensor:
        """The predicted clean image."""
        alpha, sigma = (expand(value, x_t) for value in self.sde.marginal(t))
        return x0_from(self.target, self.value(x_t, t, encoded), x_t, alpha, sigma)

    def score(self, x_t: Tensor, t: Tensor, encoded: Encoded) -> Tensor:
        """grad log p_t(x_t), the score."""
        return -self.eps_hat(x_t, t, encoded) / expand(self.sde.sigma(t), x_t)
