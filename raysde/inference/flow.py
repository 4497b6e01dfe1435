"""The probability flow ODE of a model: likelihoods of images, and conversion of images to latents and back."""

from collections.abc import Sequence
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor

from raysde import rng
from raysde.data.classes import Label
from raysde.inference.conditions import Attributes
from raysde.inference.edit import check_images, check_interpolation_weights
from raysde.inference.pixels import ModelLike, check_dtype, device_of, need_pixels, to_floats, to_pixels
from raysde.inference.sample import conditional_score
from raysde.io.keywords import own_keywords
from raysde.sampling import likelihood
from raysde.sampling.sampler import Samples


class Flowing(TypedDict, total=False):
    """Keyword arguments of the functions that solve the probability flow ODE; see :func:`encode_counted`."""

    prompts: Sequence[str] | None
    labels: Sequence[Label] | None
    attributes: Attributes | None
    guidance: float
    rtol: float
    atol: float


def log_prob(
    model: ModelLike,
    images: Tensor,
    *,
    prompts: Sequence[str] | None = None,
    labels: Sequence[Label] | None = None,
    attributes: Attributes | None = None,
    seed: int = 0,
    guidance: float = 1.0,
    divergence: likelihood.Divergence = "rademacher",
    probes: int = 4,
    rtol: float = likelihood.TOLERANCE,
    atol: float = likelihood.TOLERANCE,
) -> likelihood.LogProb:
    """Return log-densities in nats of images [B, C, H, W], uint8 or float, as floats in the data range.

    Args:
        prompts, labels: one for each image; None without.
        attributes: numeric attributes as for :func:`raysde.inference.sample.sample`.
        seed: seed of the probes.
        guidance: has to be 1, because a guided score has no density.
        divergence, probes, rtol, atol: as for :func:`raysde.sampling.likelihood.log_prob`.

    Raises:
        ValueError: if the images do not fit the model, or the score is guided.
    """
    check_images(model, "log_prob", images, model.spec.image)
    return likelihood.log_prob(
        conditional_score(model, prompts, labels, len(images), guidance, attributes),  # type: ignore[arg-type]
        to_floats(model, images),
        model.score_model.sde,
        divergence=divergence,
        probes=probes,
        generator=rng.generator(seed, rng.PROBES, device=device_of(model)),
        rtol=rtol,
        atol=atol,
    )


def bits_per_dim(
    model: ModelLike,
    images: Tensor,
    *,
    prompts: Sequence[str] | None = None,
    labels: Sequence[Label] | None = None,
    attributes: Attributes | None = None,
    seed: int = 0,
    guidance: float = 1.0,
    repeats: int = 5,
    divergence: likelihood.Divergence = "rademacher",
    probes: int = 1,
    rtol: float = likelihood.TOLERANCE,
    atol: float = likelihood.TOLERANCE,
) -> likelihood.BitsPerDim:
    """Return bits per dimension of uint8 images [B, C, H, W]; see :func:`raysde.sampling.likelihood.bits_per_dim`.

    Args:
        prompts, labels: one for each image; None without.
        attributes: numeric attributes as for :func:`raysde.inference.sample.sample`.
        seed: seed of the dequantisation and of the probes.
        guidance: has to be 1, because a guided score has no density.
        repeats, divergence, probes, rtol, atol: as for :func:`raysde.sampling.likelihood.bits_per_dim`.

    Raises:
        ValueError: if the images are not uint8 or do not fit the model, or the score is guided.
    """
    check_images(model, "bits_per_dim", images, model.spec.image, whole=True)
    return likelihood.bits_per_dim(
        conditional_score(model, prompts, labels, len(images), guidance, attributes),  # type: ignore[arg-type]
        images.to(device_of(model)),
        model.score_model.sde,
        data_range=model.spec.data_range,
        repeats=repeats,
        divergence=divergence,
        probes=probes,
        generator=rng.generator(seed, rng.PROBES, device=device_of(model)),
        rtol=rtol,
        atol=atol,
    )


@own_keywords
def encode(model: ModelLike, images: Tensor, **options: Unpack[Flowing]) -> Tensor:
    """Return the latents [B, C, H, W] at t = 1 of images; :func:`decode` inverts it. See :func:`encode_counted`.

    Raises:
        ValueError: if the images do not fit the model, or the score is guided.
    """
    return encode_counted(model, images, **options).x


@own_keywords
def encode_counted(model: ModelLike, images: Tensor, **options: Unpack[Flowing]) -> Samples:
    """Return the latents of images as :func:`encode`, and the number of function evaluations (NFE) of each.

    Args:
        images: [B, C, H, W], uint8 or float in the data range.
        options: prompts, labels and attributes, one for each image; guidance, which has to be 1 because a guided score
            has no density; relative and absolute tolerances ``rtol`` and ``atol`` of the solver.

    Raises:
        ValueError: if the images do not fit the model, or the score is guided.
    """
    check_images(model, "encode", images, model.spec.image)
    score, tolerances = _prepare_flow(model, len(images), **options)
    return Samples(*likelihood.encode_counted(score, to_floats(model, images), model.score_model.sde, **tolerances))


@own_keywords
def decode(
    model: ModelLike, latents: Tensor, *, dtype: torch.dtype = torch.uint8, **options: Unpack[Flowing]
) -> Tensor:
    """Return the images [B, C, H, W] of latents [B, C, H, W] at t = 1; see :func:`decode_counted`.

    Raises:
        ValueError: if the model is trained on latents of an autoencoder, or the score is guided.
    """
    return decode_counted(model, latents, dtype=dtype, **options).x


@own_keywords
def decode_counted(
    model: ModelLike, latents: Tensor, *, dtype: torch.dtype = torch.uint8, **options: Unpack[Flowing]
) -> Samples:
    """Return the images of latents as :func:`decode`, and the number of function evaluations (NFE) of each.

    Args:
        latents: [B, C, H, W], float.
        dtype: torch.uint8, or torch.float32 for floats in the data range, neither clipped nor rounded.
        options: see :func:`encode_counted`.

    Raises:
        ValueError: if the model is trained on latents of an autoencoder, or the score is guided.
    """
    need_pixels(model, "decode")
    check_dtype(dtype)
    score, tolerances = _prepare_flow(model, len(latents), **options)
    x0, nfe = likelihood.decode_counted(score, latents.to(device_of(model)), model.score_model.sde, **tolerances)
    return Samples(to_pixels(model, x0, dtype).cpu(), nfe)


@own_keywords
def interpolate(
    model: ModelLike,
    first: Tensor,
    second: Tensor,
    weights: Sequence[float],
    *,
    dtype: torch.dtype = torch.uint8,
    **options: Unpack[Flowing],
) -> Tensor:
    """Return images [K, B, C, H, W] that interpolate between ``first`` and ``second`` in their latents at t = 1.

    Args:
        first, second: [B, C, H, W], uint8 or float in the data range.
        weights: K numbers in [0, 1]: 0 for the first images, 1 for the second.
        dtype, options: see :func:`decode_counted`.

    Raises:
        ValueError: if the images do not fit the model or each other, or a weight is outside [0, 1].
    """
    check_interpolation_weights(weights)
    if len(first) != len(second):
        raise ValueError(f"interpolate: first has {len(first)} images and second {len(second)}; give equally many")
    start, end = (encode(model, images, **options) for images in (first, second))
    path = likelihood.interpolate(start, end, torch.tensor(weights))
    return torch.stack([decode(model, latents, dtype=dtype, **options) for latents in path])


def _prepare_flow(
    model: ModelLike,
    count: int,
    *,
    prompts: Sequence[str] | None = None,
    labels: Sequence[Label] | None = None,
    attributes: Attributes | None = None,
    guidance: float = 1.0,
    rtol: float = likelihood.TOLERANCE,
    atol: float = likelihood.TOLERANCE,
) -> tuple[Any, dict[str, float]]:
    """Return the score of ``count`` images under their conditions, and the solver's tolerances."""
    return conditional_score(model, prompts, labels, count, guidance, attributes), {"rtol": rtol, "atol": atol}
