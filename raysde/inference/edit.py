"""Edit images by a trained model: inpaint, colorise, upscale, redraw (SDEdit) and interpolate prompts."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, Unpack

import torch
from torch import Tensor

from raysde import rng
from raysde.conditioning.conditioner import Conditioner, Encoded
from raysde.conditioning.images import InpaintCondition, UpscaleCondition
from raysde.images.sizes import Size, read_size
from raysde.inference.guidance import Interval
from raysde.inference.image_conditions import inpaint_with_condition, upscale_with_condition
from raysde.inference.pixels import (
    ModelLike,
    check_dtype,
    device_of,
    need_pixels,
    pixel_range,
    to_floats,
    to_pixels,
)
from raysde.inference.sample import Drawing, draw_batches, make_guidance, resolve_drawing
from raysde.inference.samples import Drawn, make_samples
from raysde.io.keywords import own_keywords
from raysde.models import autoencoder as latent_space
from raysde.models.sampling_defaults import resolve_settings
from raysde.sampling import likelihood
from raysde.sampling.inverse import restore
from raysde.sampling.inverse.operators import AveragePool, Grey, Mask, Projection
from raysde.sampling.inverse.posterior import ITERATIONS
from raysde.sampling.inverse.restore import Way
from raysde.sampling.method import Settings, make_method
from raysde.sampling.sampler import Samples, sample
from raysde.sde import Score

Line = Literal["spherical", "linear"]


class Restoring(Drawing, total=False):
    """Keyword arguments of inpaint, colorise and upscale; see :func:`inpaint`."""

    method: Way
    noise: float
    iterations: int
    resample: int


@own_keywords
def inpaint(model: ModelLike, images: Tensor, mask: Tensor, **options: Unpack[Restoring]) -> Drawn:
    """Fill in the unknown pixels of images [B, C, H, W] and keep the known ones.

    A model that is trained to inpaint (``image_condition.kind=inpaint``) takes the known pixels as a condition,
    unless ``method`` is given; see :func:`raysde.inference.image_conditions.inpaint_with_condition`.

    Args:
        images: uint8, or float in the data range.
        mask: bool, True where pixels are known, [H, W] for all images or [B, 1, H, W].
        options: keyword arguments of :func:`raysde.inference.sample.sample`, whose defaults here are not the model's
            own settings; and ``method`` (moment_matching or replacement), ``noise`` (standard deviation of the known
            pixels in levels of 255), ``iterations`` and ``resample``, see
            :func:`raysde.sampling.inverse.restore.edit`.

    Raises:
        ValueError: if the images or the mask do not fit the model, or as :func:`raysde.inference.sample.sample`.
    """
    check_images(model, "inpaint", images, model.spec.image)
    if mask.shape not in (images.shape[2:], (len(images), 1, *images.shape[2:])):
        raise ValueError(
            f"the mask has shape {tuple(mask.shape)}, the images {tuple(images.shape)}"
            "; give [H, W], or one mask [B, 1, H, W] for each image"
        )

    condition = model.spec.image_condition
    if isinstance(condition, InpaintCondition) and options.get("method") is None:
        return inpaint_with_condition(model, condition, images, mask, **options)

    def measure_rows(rows: slice) -> tuple[Projection, Tensor]:
        projection = Mask((mask if mask.ndim == 2 else mask[rows]).to(device_of(model)))
        return projection, projection.measure(to_floats(model, images[rows]))

    return draw_restored(model, len(images), measure_rows, **options)


@own_keywords
def colorise(model: ModelLike, grey: Tensor, **options: Unpack[Restoring]) -> Drawn:
    """Sample the colours of grey images, which are taken as the means over the channels.

    Args:
        grey: [B, 1, H, W], uint8 or float in the data range.
        options: as for :func:`inpaint`.

    Raises:
        ValueError: if the model draws grey images, the images do not fit it, or as :func:`inpaint`.
    """
    channels, height, width = model.spec.image
    if channels == 1:
        raise ValueError("colorise: the model draws grey images; use a model of colour images")
    check_images(model, "colorise", grey, (1, height, width))
    return draw_restored(model, len(grey), lambda rows: (Grey(channels), to_floats(model, grey[rows])), **options)


@own_keywords
def upscale(model: ModelLike, images: Tensor, factor: int, **options: Unpack[Restoring]) -> Drawn:
    """Sample images [B, C, H, W] of the model's size, each pixel of ``images`` being the mean of a block of pixels.

    A model that is trained to upscale by ``factor`` (``image_condition.kind=upscale``) takes the images as a condition,
    unless ``method`` is given; see :func:`raysde.inference.image_conditions.upscale_with_condition`.

    Args:
        images: [B, C, H / factor, W / factor], uint8 or float in the data range.
        factor: side of a block in pixels.
        options: as for :func:`inpaint`.

    Raises:
        ValueError: if ``factor`` does not divide the model's size, the images do not fit it, or as :func:`inpaint`.
    """
    pool, (channels, height, width) = AveragePool(factor), model.spec.image
    if height % factor or width % factor:
        raise ValueError(
            f"upscale: factor {factor} does not divide the model's {height} x {width} images; give another"
        )
    check_images(model, "upscale", images, (channels, height // factor, width // factor))
    condition = model.spec.image_condition
    if isinstance(condition, UpscaleCondition) and condition.factor == factor and options.get("method") is None:
        return upscale_with_condition(model, condition, images, **options)
    return draw_restored(model, len(images), lambda rows: (pool, to_floats(model, images[rows])), **options)


@own_keywords
def edit(model: ModelLike, images: Tensor, strength: float, **drawing: Unpack[Drawing]) -> Drawn:
    """Redraw images [B, C, H, W] by SDEdit: add noise, then sample; see :func:`raysde.sampling.inverse.restore.sdedit`.

    Args:
        images: uint8, or float in the data range.
        strength: from 0 for the images themselves (as a latent model's autoencoder decodes them) to 1 for plain
            sampling.

    Raises:
        ValueError: if the images do not fit the model, ``strength`` is outside [0, 1], or as
            :func:`raysde.inference.sample.sample`.
    """
    latent = model.spec.latent
    check_images(model, "edit", images, model.spec.image if latent is None else latent.pixels, latents=True)
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"strength must lie between 0 and 1, got {strength}")

    def run(score: Score, rows: slice, **given: object) -> Samples:
        part = images[rows]
        x0 = to_floats(model, part) if latent is None else latent_space.encode(latent, part.to(device_of(model)))
        return restore.sdedit(score, model.score_model.sde, x0, strength, **given)  # type: ignore[arg-type]

    return draw_batches(model, run, len(images), share=strength, **resolve_drawing(model.spec, drawing))


@own_keywords
@torch.no_grad()
def interpolate_prompts(
    model: ModelLike,
    first: str,
    second: str,
    weights: Sequence[float],
    *,
    line: Line = "spherical",
    seed: int = 0,
    guidance: float | None = None,
    guidance_interval: Interval | None = None,
    negative: str | None = None,
    dtype: torch.dtype = torch.uint8,
    size: Size | int | str | None = None,
    **settings: Unpack[Settings],
) -> Drawn:
    """Sample images [K, C, H, W] for conditions between two prompts, all from the same noise.

    Args:
        weights: K numbers in [0, 1], one for each image: 0 for the first prompt, 1 for the second.
        line: interpolate the prompts' vectors on the great circle ("spherical") or straight line ("linear"), see
            :func:`interpolate_conditions`.
        seed, guidance, guidance_interval, negative, dtype, size, settings: arguments of
            :func:`raysde.inference.sample.sample`.

    Raises:
        ValueError: if there is no weight or one is outside [0, 1], or as :func:`raysde.inference.sample.sample`.
    """
    check_interpolation_weights(weights)
    check_dtype(dtype)
    spec, device = model.spec, device_of(model)
    shape = spec.shape_of(None if size is None else read_size(size))

    def encode(conditioner: Conditioner) -> Encoded:
        start, end = (conditioner.encode([prompt], None, 1) for prompt in (first, second))
        return interpolate_conditions(start, end, torch.tensor(weights, device=device), line)

    asked = {"guidance": guidance, "guidance_interval": guidance_interval, **settings}
    own = resolve_drawing(spec, {"prompts": [first, second], "negative": negative, **asked})
    leading = make_guidance(model, len(weights), own["guidance"], own.get("guidance_interval"), negative, None)
    found = sample(
        leading.score(model.score_model, encode, len(weights)).score,
        model.score_model.sde,
        (len(weights), *shape),
        generator=[rng.generator(seed, rng.IMAGE, 0) for _ in weights],
        device=device,
        **make_method(own),  # type: ignore[arg-type]
    )
    said = {**own, "prompts": [first, second], "weights": list(weights), "line": line}
    return make_samples(model, to_pixels(model, found.x, dtype).cpu(), None, seed, found.nfe, said)


def draw_restored(
    model: ModelLike,
    count: int,
    measured: Callable[[slice], tuple[Projection, Tensor]],
    *,
    method: Way = "moment_matching",
    noise: float = 0.0,
    iterations: int = ITERATIONS,
    resample: int = 0,
    **drawing: Unpack[Drawing],
) -> Drawn:
    """Sample ``count`` images given measurements, see :func:`raysde.sampling.inverse.restore.edit`.

    The model's own settings do not apply, because they were chosen for sampling without measurements.

    Args:
        measured: function from a slice of the images to their projection and their float measurements [B, ...].
        method, noise, iterations, resample: as for :func:`raysde.sampling.inverse.restore.edit`.
        drawing: as for :func:`raysde.inference.sample.sample`.

    Raises:
        ValueError: as :func:`raysde.sampling.inverse.restore.edit` and :func:`raysde.inference.sample.sample`.
    """
    spec = model.spec
    low, high = spec.data_range

    def run(score: Score, rows: slice, **given: object) -> Samples:
        projection, known = measured(rows)
        return restore.edit(
            score,
            model.score_model.sde,
            known,
            projection,
            method=method,
            noise=noise * (high - low) / 255.0,
            iterations=iterations,
            resample=resample,
            **given,  # type: ignore[arg-type]
        )

    settings = resolve_settings({}, drawing, False, usual=spec.default_solver, resample=resample)
    drawn = draw_batches(model, run, count, **settings)
    said = {"method": method, "noise": noise}
    said |= {"iterations": iterations} if method == "moment_matching" else {"resample": resample}
    return replace(drawn, settings={**drawn.settings, **said})


def check_images(
    model: ModelLike, what: str, images: Tensor, shape: tuple[int, ...], *, latents: bool = False, whole: bool = False
) -> None:
    """Check images [B, C, H, W] of (C, H, W) ``shape``, uint8 or float in the data range.

    Args:
        what: name of the operation, for messages.
        latents: True if the operation also works on a model of latents.
        whole: True if images have to be uint8.

    Raises:
        ValueError: if the images have another shape, type or range, or the model is of latents and must not be.
    """
    if not latents:
        need_pixels(model, what)
    kinds = "uint8 images" if whole else "images, uint8 or float,"
    fits = images.dtype == torch.uint8 or (images.is_floating_point() and not whole)
    if not fits or images.shape[1:] != shape or images.ndim != 4 or len(images) == 0:
        raise ValueError(
            f"{what}: this model takes {kinds} of shape [B, {', '.join(map(str, shape))}], "
            f"got {images.dtype} of shape {list(images.shape)}"
        )
    if images.dtype != torch.uint8:
        check_range(what, images, pixel_range(model.spec))


def check_range(what: str, images: Tensor, data_range: tuple[float, float]) -> None:
    """Check that float images [B, C, H, W] lie in the data range and not on another scale, such as 0 to 255.

    Values up to half the range's width outside it are allowed, because samplers overshoot black and white.

    Raises:
        ValueError: if a value is further outside the range, or not finite.
    """
    (low, high), (least, most) = data_range, (value.item() for value in images.aminmax())
    room = 0.5 * (high - low)
    if not (low - room <= least and most <= high + room):
        raise ValueError(
            f"{what}: float images must lie in the data range, {low:g} to {high:g}, got {least:g} to {most:g}"
        )


def check_interpolation_weights(weights: Sequence[float]) -> None:
    """Check the weights of an interpolation.

    Raises:
        ValueError: if there is no weight, or one is outside [0, 1].
    """
    if not len(weights) or not all(0.0 <= weight <= 1.0 for weight in weights):
        raise ValueError(f"weights must be one or more numbers between 0 and 1, got {list(weights)}")


def interpolate_conditions(first: Encoded, second: Encoded, weights: Tensor, line: Line) -> Encoded:
    """Return K conditions between two conditions of one row each, at weights [K].

    Tokens are paired by position. Between the ends each prompt's tokens are repeated to the least common multiple of
    their numbers. Cross-attention to equally repeated tokens is unchanged, so the path is continuous at both ends.

    Raises:
        ValueError: if ``line`` is unknown.
    """
    if line not in LINES:
        raise ValueError(f"line must be one of {', '.join(LINES)}, got {line!r}")
    path, pooled, context, mask = LINES[line], None, None, None
    if first.pooled is not None and second.pooled is not None:
        pooled = path(first.pooled, second.pooled, weights)[:, 0]
    if first.context is not None and second.context is not None:
        a, b = _real_tokens(first), _real_tokens(second)
        length = math.lcm(len(a), len(b))
        start, end = (tokens.repeat_interleave(length // len(tokens), dim=0) for tokens in (a, b))
        context = path(start, end, weights)
        place, at = torch.arange(length, device=weights.device), weights[:, None]
        own, other = (place % (length // len(tokens)) == 0 for tokens in (a, b))
        mask = torch.where(at == 0.0, own, (at < 1.0) | other)
    return Encoded(pooled, context, mask)


def _real_tokens(encoded: Encoded) -> Tensor:
    """Return the vectors [L, D] of the tokens of one condition that are no padding."""
    assert encoded.context is not None
    assert encoded.mask is not None
    return encoded.context[0, encoded.mask[0]]


def _interpolate_linearly(first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
    """Return points [K, ...] on the straight line from ``first`` (weight 0) to ``second`` (weight 1), each [...]."""
    return torch.stack([torch.lerp(first, second, weight) for weight in weights])


LINES = {"spherical": likelihood.interpolate, "linear": _interpolate_linearly}
