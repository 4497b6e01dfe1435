"""Denoising score matching: weightings, reductions and the loss.

With lambda(t) the weight of the squared score error (Song et al. eq. 7), the noise form of the loss is
``lambda(t) / sigma^2 * (eps_hat - eps)^2``; a weighting here is that factor on the squared error of the noise.
"""

from typing import Literal

import torch
from torch import Tensor

from raysde.sde import SDE
from raysde.sde.parameterisation import Preconditioning, Target, marginal_for, noise_error_scale, target_of

Weighting = Literal["sigma2", "likelihood", "target", "x0", "min_snr", "edm"]
WEIGHTINGS: tuple[Weighting, ...] = ("sigma2", "likelihood", "target", "x0", "min_snr", "edm")
Reduction = Literal["mean", "half_sum"]


def noise_weight(weighting: Weighting, sde: SDE, t: Tensor, *, data_std: float, min_snr_gamma: float) -> Tensor:
    """The factor on the squared error of the predicted noise at t: [B].

    sigma2      lambda = sigma^2, the plain error of the noise (Song et al. section 3.3)
    likelihood  lambda = g^2, a bound on the log-likelihood (Song et al. 2021b, arXiv 2101.09258, theorem 1)
    x0          the plain error of the clean image, 1 / SNR
    min_snr     min(SNR, gamma) times the error of the clean image (Hang et al. 2023, arXiv 2303.09556)
    edm         1 / c_out^2 times the error of the clean image (Karras et al. 2022, table 1)

    Raises:
        ValueError: if there is no such weighting of the noise.
    """
    if weighting == "sigma2":
        return torch.ones_like(t)
    if weighting == "likelihood":
        return sde.diffusion2(t) / sde.sigma2(t)
    snr = sde.snr(t)
    if weighting == "x0":
        return 1.0 / snr
    if weighting == "min_snr":
        return snr.clamp(max=min_snr_gamma) / snr
    if weighting == "edm":
        return (1.0 / snr + data_std**2) / data_std**2
    raise ValueError(f"weighting must be one of {', '.join(WEIGHTINGS)}, got {weighting!r}")


def denoising_score_matching(
    output: Tensor,
    x0: Tensor,
    eps: Tensor,
    t: Tensor,
    sde: SDE,
    target: Target,
    weighting: Weighting,
    *,
    data_std: float = 0.5,
    min_snr_gamma: float = 5.0,
    reduction: Reduction = "mean",
    preconditioning: Preconditioning | None = None,
) -> Tensor:
    """The loss of each image, [B], given the network's output at ``alpha x0 + sigma eps``.

    Args:
        output: what the network gave, [B, ...].
        x0, eps: clean images and noise, [B, ...].
        t: times, [B].
        weighting: see :func:`noise_weight`; "target" is the plain error of the network's own output.
        data_std: standard deviation of a pixel.
        reduction: over pixels, the mean, or half the sum (Song et al. for VE; twice 1 / D apart).
        preconditioning: what the output was scaled by.
    """
    alpha, sigma = marginal_for(sde, t, x0)
    scale = (preconditioning or Preconditioning()).output_scale(target, alpha, sigma)
    wanted = target_of(target, x0, eps, alpha, sigma, data_std) / scale
    error = (output - wanted).square().flatten(1)
    error = error.mean(dim=1) if reduction == "mean" else 0.5 * error.sum(dim=1)
    if weighting == "target":
        return error
    noise_scale = (noise_error_scale(target, alpha, sigma, data_std) * scale).square().reshape(len(x0))
    return noise_weight(weighting, sde, t, data_std=data_std, min_snr_gamma=min_snr_gamma) * noise_scale * error


def with_uncertainty(loss: Tensor, log_variance: Tensor | None) -> Tensor:
    """loss / exp(u) + u with the learned log-variance u [B] (Karras et al. 2024, eq. 21); the loss itself without."""
    return loss if log_variance is None else loss / log_variance.exp() + log_variance
