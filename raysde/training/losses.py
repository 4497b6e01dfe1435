"""Denoising score matching: weightings, reductions and the loss.

With lambda(t) the weight of the squared score error (Song et al. eq. 7), the noise form of the loss is ``lambda(t) /
sigma^2 * (eps_hat - eps)^2``; a weighting here is that factor on the squared error of the noise. A new weighting or
reduction is one line in its table, from which the recipe's choices and their descriptions follow.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from raysde.io.shapes import of_shape, place_of
from raysde.sde import SDE, expand
from raysde.sde.parameterisation import Preconditioning, Target, marginal_for, noise_error_scale, target_of


class Weight(NamedTuple):
    """A weighting of the loss.

    Attributes:
        meaning: description in the reference of recipe keys.
        factor: function of the SDE, times [B], data_std and min-SNR's gamma that returns the factor on the squared
            error of the noise, [B]; None for the plain error of the network's own output.
    """

    meaning: str
    factor: Callable[[SDE, Tensor, float, float], Tensor] | None


class Reduce(NamedTuple):
    """A reduction of the loss: its description, and the function from values [B, D] to the loss [B] of each image."""

    meaning: str
    over: Callable[[Tensor], Tensor]


def min_snr(sde: SDE, t: Tensor, data_std: float, gamma: float) -> Tensor:
    """Return min(SNR, gamma) / SNR at times t, both [B] (Hang et al. 2023, arXiv 2303.09556).

    Args:
        data_std: not read; all weightings have the same arguments.
        gamma: largest signal-to-noise ratio that still raises the weight; 5 in the paper.
    """
    snr = sde.snr(t)
    return snr.clamp(max=gamma) / snr


WEIGHTINGS: dict[str, Weight] = {
    # lambda = sigma^2 (Song et al. section 3.3)
    "sigma2": Weight("plain error of the noise", lambda sde, t, data_std, gamma: torch.ones_like(t)),
    # lambda = g^2 (Song et al. 2021b, arXiv 2101.09258, theorem 1)
    "likelihood": Weight(
        "g^2, a bound on the log-likelihood", lambda sde, t, data_std, gamma: sde.diffusion2(t) / sde.sigma2(t)
    ),
    "target": Weight("plain error of the output", None),
    "x0": Weight("plain error of the image", lambda sde, t, data_std, gamma: 1.0 / sde.snr(t)),
    # Hang et al. 2023, arXiv 2303.09556
    "min_snr": Weight("min(SNR, gamma) times the error of the image", min_snr),
    # Karras et al. 2022, table 1
    "edm": Weight(
        "1 / c_out^2 times the error of the image",
        lambda sde, t, data_std, gamma: (1.0 / sde.snr(t) + data_std**2) / data_std**2,
    ),
}
REDUCTIONS: dict[str, Reduce] = {
    "mean": Reduce("mean over values", lambda error: error.mean(dim=1)),
    # Song et al. for VE; D / 2 times the mean
    "half_sum": Reduce("half the sum", lambda error: 0.5 * error.sum(dim=1)),
}
if TYPE_CHECKING:
    Weighting: TypeAlias = str
    Reduction: TypeAlias = str
else:
    Weighting, Reduction = Literal[tuple(WEIGHTINGS)], Literal[tuple(REDUCTIONS)]


ElementLoss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """The loss of an image as a function of its prediction error.

    Attributes:
        weighting: key of ``WEIGHTINGS``.
        reduction: key of ``REDUCTIONS``.
        min_snr_gamma: gamma of the weighting min_snr.
        own: user-written loss of each value instead, see :class:`raysde.training.external.ExternalLoss`.
    """

    weighting: Weighting = "sigma2"
    reduction: Reduction = "mean"
    min_snr_gamma: float = 5.0
    own: ElementLoss | None = None


def noise_weight(weighting: Weighting, sde: SDE, t: Tensor, *, data_std: float, min_snr_gamma: float) -> Tensor:
    """Return the factor on the squared error of the predicted noise at times t, both [B].

    Args:
        data_std: standard deviation of the data, for the weighting ``edm``.
        min_snr_gamma: gamma of the weighting ``min_snr``.

    Raises:
        ValueError: if there is no such weighting of the noise.
    """
    found = WEIGHTINGS.get(weighting)
    if found is None or found.factor is None:
        raise ValueError(f"weighting must be one of {', '.join(WEIGHTINGS)}, got {weighting!r}")
    return found.factor(sde, t, data_std, min_snr_gamma)


def denoising_score_matching(
    output: Tensor,
    x0: Tensor,
    eps: Tensor,
    t: Tensor,
    sde: SDE,
    target: Target,
    criterion: Criterion,
    *,
    data_std: float = 0.5,
    preconditioning: Preconditioning | None = None,
) -> Tensor:
    """Return the loss of each image, [B], given the network's output at ``alpha x0 + sigma eps``.

    Args:
        output: output of the network, [B, ...].
        x0, eps: clean images and noise, [B, ...].
        t: times, [B].
        data_std: standard deviation of a pixel.
        preconditioning: scaling of the network's output.

    Raises:
        ValueError: if a user-written loss has another shape than the error.
    """
    alpha, sigma = marginal_for(sde, t, x0)
    scale = (preconditioning or Preconditioning()).output_scale(target, alpha, sigma)
    wanted = target_of(target, x0, eps, alpha, sigma, data_std) / scale
    reduce = REDUCTIONS[criterion.reduction].over
    if criterion.own is not None:
        noise_error = (output - wanted) * (noise_error_scale(target, alpha, sigma, data_std) * scale)
        values = criterion.own(noise_error, expand(sde.log_snr(t), x0))
        return reduce(of_shape(values, x0.shape, f"train.weighting: {place_of(criterion.own)}").flatten(1))
    error = reduce((output - wanted).square().flatten(1))
    if WEIGHTINGS[criterion.weighting].factor is None:
        return error
    noise_scale = (noise_error_scale(target, alpha, sigma, data_std) * scale).square().reshape(len(x0))
    gamma = criterion.min_snr_gamma
    return noise_weight(criterion.weighting, sde, t, data_std=data_std, min_snr_gamma=gamma) * noise_scale * error


def weigh_by_uncertainty(loss: Tensor, log_variance: Tensor | None) -> Tensor:
    """Return loss / exp(u) + u for a loss [B] and the learned log-variance u [B] (Karras et al. 2024, eq. 21).

    Without a log-variance the loss is returned as it is.
    """
    return loss if log_variance is None else loss / log_variance.exp() + log_variance
