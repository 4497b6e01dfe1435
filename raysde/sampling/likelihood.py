"""Exact likelihoods and latents by the probability-flow ODE (Song et al. 2021, section 4.3 and appendix D.2).

Along dx/dt = v(x, t), log p_0(x_0) = log p_T(x_T) + int_0^T div v dt (eq. 39). The divergence is either exact, with one
vector-Jacobian product per dimension, or Hutchinson's unbiased estimate, with one product per random probe. Either way
the network runs forward once per evaluation. Every sample has its own step sizes.

Likelihoods are those of the data at the SDE's training floor; on VE that is noise sigma_min (Karras et al. 2022).
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from raysde.sampling.score import check_score_values
from raysde.sampling.solvers.adaptive import integrate_ode, probability_flow
from raysde.sde import SDE, Score

Divergence = Literal["exact", "rademacher", "gaussian"]
TOLERANCE = 1e-5
"""Default relative and absolute tolerance of the solver (Song et al. 2021, appendix D.4)."""


@dataclass(frozen=True)
class LogProb:
    """Log densities in nats.

    Attributes:
        value: log p(x0) of each sample, [B], float64.
        standard_error: standard error over probes, [B]; 0 for the exact divergence, NaN for one probe.
        latent: x at the prior's end, with the shape of the data.
        nfe: number of network evaluations, each of the whole batch.
    """

    value: Tensor
    standard_error: Tensor
    latent: Tensor
    nfe: int


def check_score(score: Score) -> Score:
    """Return the callable ``score(x_t, t)`` of an unguided score, with its output shapes checked.

    Raises:
        ValueError: if the score is guided, since it then belongs to no density.
    """
    if getattr(score, "is_guided", False):
        raise ValueError("a guided score belongs to no density: ask for likelihoods and latents with guidance=1")
    return check_score_values(score)


def log_prob(
    score: Score,
    x0: Tensor,
    sde: SDE,
    *,
    divergence: Divergence = "rademacher",
    probes: int = 4,
    generator: torch.Generator | None = None,
    rtol: float = TOLERANCE,
    atol: float = TOLERANCE,
) -> LogProb:
    """Return log p(x0) under the model with the given score.

    Args:
        score: ``score(x_t, t)`` or an object with such a method; differentiable in x_t.
        x0: data, [B, ...].
        divergence: exact, or estimated by probes with entries +-1 (rademacher, lower variance) or normal (gaussian).
        probes: number of probes; their spread gives the standard error. All probes share one integration.
        generator: random generator of the probes.
        rtol, atol: tolerances of the solver.

    Raises:
        ValueError: if the score is guided, ``probes`` is below 1, or the divergence is unknown.
    """
    score = check_score(score)
    jacobian = _jacobian(x0, divergence, probes, generator)
    size = x0[0].numel()

    def slope(t: Tensor, y: Tensor) -> Tensor:
        velocity, rates = _velocity_and_divergence(score, sde, y[:, :size].reshape(x0.shape), t, jacobian)
        return torch.cat([velocity.reshape(len(velocity), -1), rates], dim=1)

    y = torch.cat([x0.reshape(len(x0), -1), x0.new_zeros(len(x0), jacobian.columns)], dim=1)
    y, nfe = integrate_ode(slope, y, sde.train_floor, sde.ceiling, rtol=rtol, atol=atol)
    latent, gathered = y[:, :size].reshape(x0.shape), y[:, size:].double()
    value = sde.prior_log_prob(latent.double()) + gathered.mean(dim=1)
    error = torch.zeros_like(value) if divergence == "exact" else _standard_error(gathered)
    return LogProb(value, error, latent, nfe)


@dataclass(frozen=True)
class BitsPerDim:
    """Bits per dimension of 8-bit images.

    Attributes:
        value: mean over dequantisations for each image, [B], float64.
        standard_error: standard error of each value over dequantisations and probes, [B]; NaN for a single repeat.
        nfe: number of network evaluations, each of the whole batch.
    """

    value: Tensor
    standard_error: Tensor
    nfe: int


def bits_per_dim(
    score: Score,
    images: Tensor,
    sde: SDE,
    *,
    data_range: tuple[float, float] = (-1.0, 1.0),
    repeats: int = 5,
    divergence: Divergence = "rademacher",
    probes: int = 1,
    generator: torch.Generator | None = None,
    rtol: float = TOLERANCE,
    atol: float = TOLERANCE,
) -> BitsPerDim:
    """Bound -log2 P(image) / D of uint8 images [B, ...] from above by uniform dequantisation (Theis et al. 2016).

    Args:
        data_range: float values of black and white in the model's training data.
        repeats: number of dequantisations, each with its own probes (Song et al. use 5 on test sets).
        score, sde, divergence, probes, generator, rtol, atol: as for :func:`log_prob`.

    Raises:
        ValueError: if images are not uint8 or ``repeats`` is below 1; and as :func:`log_prob`.
    """
    if images.dtype != torch.uint8:
        raise ValueError(f"bits per dimension need uint8 images, got {images.dtype}")
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    low, high = data_range
    level, size = (high - low) / 256.0, images[0].numel()
    values, nfe = [], 0
    for _ in range(repeats):
        noise = torch.rand(images.shape, generator=generator, device=images.device)
        found = log_prob(
            score,
            low + level * (images + noise),
            sde,
            divergence=divergence,
            probes=probes,
            generator=generator,
            rtol=rtol,
            atol=atol,
        )
        values.append(-(found.value / size + math.log(level)) / math.log(2.0))
        nfe += found.nfe
    each = torch.stack(values, dim=1)
    return BitsPerDim(each.mean(dim=1), _standard_error(each), nfe)


def _standard_error(estimates: Tensor) -> Tensor:
    """Return the standard error of the mean of each row of [B, N]: [B]; NaN if N is 1."""
    if estimates.shape[1] == 1:
        return torch.full_like(estimates[:, 0], math.nan)
    return estimates.std(dim=1) / math.sqrt(estimates.shape[1])


def encode(score: Score, x0: Tensor, sde: SDE, *, rtol: float = TOLERANCE, atol: float = TOLERANCE) -> Tensor:
    """Map data x0 [B, ...] to latents of the same shape by the probability flow, from training floor to ceiling.

    Args:
        score: ``score(x_t, t)`` with x_t [B, ...] and t [B]; returns the shape of x_t.
        rtol, atol: relative and absolute tolerance of the adaptive solver; the error of a step stays below atol + rtol
            |x|.

    Raises:
        ValueError: if the score is guided, or a tolerance is not positive.
        FloatingPointError: if the solver finds no step that is small enough.
    """
    return encode_counted(score, x0, sde, rtol=rtol, atol=atol)[0]


def decode(score: Score, latent: Tensor, sde: SDE, *, rtol: float = TOLERANCE, atol: float = TOLERANCE) -> Tensor:
    """Map latents [B, ...] to data of the same shape, the inverse of :func:`encode`.

    Args:
        score: ``score(x_t, t)`` with x_t [B, ...] and t [B]; returns the shape of x_t.
        rtol, atol: relative and absolute tolerance of the adaptive solver; the error of a step stays below atol + rtol
            |x|.

    Raises:
        ValueError: if the score is guided, or a tolerance is not positive.
        FloatingPointError: if the solver finds no step that is small enough.
    """
    return decode_counted(score, latent, sde, rtol=rtol, atol=atol)[0]


@torch.no_grad()
def encode_counted(score: Score, x0: Tensor, sde: SDE, *, rtol: float, atol: float) -> tuple[Tensor, int]:
    """Return the latents [B, ...] of :func:`encode`, and the number of score evaluations of the whole batch.

    Raises:
        ValueError, FloatingPointError: as :func:`encode`.
    """
    return probability_flow(check_score(score), sde, x0, sde.train_floor, sde.ceiling, rtol=rtol, atol=atol)


@torch.no_grad()
def decode_counted(score: Score, latent: Tensor, sde: SDE, *, rtol: float, atol: float) -> tuple[Tensor, int]:
    """Return the data [B, ...] of :func:`decode`, and the number of score evaluations of the whole batch.

    Raises:
        ValueError, FloatingPointError: as :func:`decode`.
    """
    return probability_flow(check_score(score), sde, latent, sde.ceiling, sde.train_floor, rtol=rtol, atol=atol)


def interpolate(first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
    """Interpolate between two latents [B, ...] on their great circle, at weights [K] in [0, 1]: [K, B, ...].

    Straight lines between Gaussian latents have too small norms (Shoemake 1985; White 2016, arXiv 1609.04468).

    Raises:
        ValueError: if the shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"latents must have one shape, got {tuple(first.shape)} and {tuple(second.shape)}")
    a, b = first.reshape(len(first), -1), second.reshape(len(second), -1)
    cosine = (a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1))
    angle = torch.acos(cosine.clamp(-1.0, 1.0))[None, :, None]
    weight = weights.to(first)[:, None, None]
    # parallel latents are interpolated linearly, which is the limit of the great circle
    near = angle < 1e-4
    safe = torch.where(near, torch.ones_like(angle), angle)
    left = torch.where(near, 1.0 - weight, torch.sin((1.0 - weight) * safe) / torch.sin(safe))
    right = torch.where(near, weight.expand_as(left), torch.sin(weight * safe) / torch.sin(safe))
    return (left * a + right * b).reshape(len(weights), *first.shape)


@dataclass(frozen=True)
class _Jacobian:
    """Directions d whose products d^T J d, summed in ``columns`` equal groups, give traces of the Jacobian J."""

    directions: list[Tensor]
    columns: int


def _jacobian(x0: Tensor, divergence: Divergence, probes: int, generator: torch.Generator | None) -> _Jacobian:
    """Return the unit vectors, which together give the trace, or random probes, each of which estimates it."""
    if divergence == "exact":
        basis = torch.eye(x0[0].numel(), device=x0.device, dtype=x0.dtype)
        return _Jacobian([row.reshape(x0[0].shape).expand(x0.shape) for row in basis], 1)
    if probes < 1:
        raise ValueError(f"probes must be at least 1, got {probes}")
    shape = (probes, *x0.shape)
    if divergence == "gaussian":
        return _Jacobian(list(torch.randn(shape, generator=generator, device=x0.device, dtype=x0.dtype)), probes)
    if divergence == "rademacher":
        coins = torch.randint(0, 2, shape, generator=generator, device=x0.device)
        return _Jacobian(list((2 * coins - 1).to(x0.dtype)), probes)
    raise ValueError(f"divergence must be exact, rademacher or gaussian, got {divergence!r}")


@torch.enable_grad()
def _velocity_and_divergence(
    score: Score, sde: SDE, x: Tensor, t: Tensor, jacobian: _Jacobian
) -> tuple[Tensor, Tensor]:
    """Return v(x, t) and its divergence [B, columns], by one forward pass and one backward pass per direction."""
    x, time = x.detach().requires_grad_(), t.to(x.dtype)
    velocity = sde.probability_flow(x, time, score(x, time))
    rates = []
    for left, direction in zip(reversed(range(len(jacobian.directions))), jacobian.directions, strict=True):
        (product,) = torch.autograd.grad(velocity, x, direction, retain_graph=left > 0)
        rates.append((product * direction).reshape(len(x), -1).sum(dim=1))
    return velocity.detach(), torch.stack(rates, dim=1).reshape(len(x), jacobian.columns, -1).sum(dim=2)
