"""Denoising score matching: time sampling, weightings and the loss.

With lambda(t) the weight of the squared score error (Song et al. eq. 7), the noise form of the loss is
``lambda(t) / sigma^2 * mean((eps_hat - eps)^2)``. The mean is over pixels, then over the batch.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from raysde.score import Target, output_scale, target_of
from raysde.sde import SDE, expand

Weighting = Literal["sigma2", "likelihood", "target"]


def sigma2(sde: SDE, t: Tensor, target: Target) -> Tensor:
    """lambda = sigma^2: the plain error of the predicted noise (Song et al. section 3.3)."""
    return torch.ones_like(t)


def likelihood(sde: SDE, t: Tensor, target: Target) -> Tensor:
    """lambda = g^2: a bound on the log-likelihood (Song et al. 2021b, arXiv 2101.09258, theorem 1)."""
    return sde.diffusion2(t) / sde.sigma2(t)


def own_target(sde: SDE, t: Tensor, target: Target) -> Tensor:
    """The plain error of the network's own output, whatever its target."""
    return 1.0 / noise_error_scale(sde, t, target)


WEIGHTINGS: dict[Weighting, Callable[[SDE, Tensor, Target], Tensor]] = {
    "sigma2": sigma2,
    "likelihood": likelihood,
    "target": own_target,
}


def noise_error_scale(sde: SDE, t: Tensor, target: Target) -> Tensor:
    """The factor from the squared error of the network's output to the squared error of eps_hat: [B]."""
    if target in ("noise", "score"):
        return torch.ones_like(t)
    if target == "x0":
        return sde.snr(t)
    return sde.alpha2(t) / (sde.alpha2(t) + sde.sigma2(t))


def sample_times(sde: SDE, offset: Tensor, index: int, count: int, batch: int) -> Tensor:
    """Times uniform above the floor, stratified over the global batch: [count].

    The global batch has one time in each of ``batch`` equal intervals, all shifted by the same uniform ``offset``
    in [0, 1) modulo 1; ``index`` is the position of the first image of this microbatch in the global batch.
    """
    places = torch.arange(index, index + count, dtype=torch.float64, device=offset.device)
    uniform = torch.remainder((places + offset.double()) / batch, 1.0)
    return (sde.train_floor + (1.0 - sde.train_floor) * uniform).to(torch.float32)


def denoising_score_matching(
    output: Tensor, x0: Tensor, eps: Tensor, t: Tensor, sde: SDE, target: Target, weighting: Weighting
) -> Tensor:
    """The loss of each image, [B], given the network's output at ``alpha x0 + sigma eps``.

    Args:
        output: what the network gave, [B, ...]: the target divided by :func:`raysde.score.output_scale`.
        x0, eps: clean images and noise, [B, ...].
        t: times, [B].
    """
    alpha, sigma = (expand(value, x0) for value in sde.marginal(t))
    wanted = target_of(target, x0, eps, alpha, sigma) / output_scale(target, alpha, sigma)
    error = (output - wanted).square().flatten(1).mean(dim=1)
    return WEIGHTINGS[weighting](sde, t, target) * noise_error_scale(sde, t, target) * error
