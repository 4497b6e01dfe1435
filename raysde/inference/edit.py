"""What a trained model can do to images: fill in, colour, enlarge and change them; and images between two prompts."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, Unpack

import torch
from torch import Tensor

from raysde import rng
from raysde.conditioning.conditioner import Conditioner, Encoded
from raysde.images.sizes import Size, read_size
from raysde.inference.guidance import Interval
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
    """The keyword arguments of what restores images: those of :func:`raysde.sampling.inverse.restore.edit`, and of
    drawing."""

    method: Way
    noise: float
    iterations: int
    resample: int


@own_keywords
def inpaint(model: ModelLike, images: Tensor, mask: Tensor, **options: Unpack[Restoring]) -> Drawn:
    """Fill in what is not known of images [B, C, H, W]; what is known stays as it is.

    Args:
        images: uint8, or float in the data range.
        mask: bool, True where the images are known, [H, W] for all of them or [B, 1, H, W].
        options: those of :func:`raysde.inference.sample.sample`, though the model's own settings are not taken; and
            ``method`` (moment_matching or replacement), ``noise`` (standard deviation of what is known, in grey levels
            of 255), ``iterations`` and ``resample``, see :func:`raysde.sampling.inverse.restore.edit`.

    Raises:
        ValueError: if the images or the mask do not fit the model, or as :func:`raysde.inference.sample.sample`.
    """
    check_images(model, "inpaint", images, model.spec.image)
    if mask.shape not in (images.shape[2:], (len(images), 1, *images.shape[2:])):
        raise ValueError(f"the mask has shape {tuple(mask.shape)}, the images {tuple(images.shape)}")

    def measure_rows(rows: slice) -> tuple[Projection, Tensor]:
        projection = Mask((mask if mask.ndim == 2 else mask[rows]).to(device_of(model)))
        return projection, projection.measure(to_floats(model, images[rows]))

    return draw_restored(model, len(images), measure_rows, **options)


@own_keywords
def colorise(model: ModelLike, grey: Tensor, **options: Unpack[Restoring]) -> Drawn:
    """Colour images [B, 1, H, W], which are taken for the means over the channels; see :func:`inpaint`."""
    channels, height, width = model.spec.image
    if channels == 1:
        raise ValueError("colorise: the model draws grey images")
    check_images(model, "colorise", grey, (1, height, width))
    return draw_restored(model, len(grey), lambda rows: (Grey(channels), to_floats(model, grey[rows])), **options)


@own_keywords
def upscale(model: ModelLike, images: Tensor, factor: int, **options: Unpack[Restoring]) -> Drawn:
    """Enlarge images [B, C, H / factor, W / factor], which are taken for the means of blocks of pixels; see
    :func:`inpaint`."""
    pool, (channels, height, width) = AveragePool(factor), model.spec.image
    if height % factor or width % factor:
        raise ValueError(f"upscale: factor {factor} does not divide the model's images of {height} x {width}")
    check_images(model, "upscale", images, (channels, height // factor, width // factor))
    return draw_restored(model, len(images), lambda rows: (pool, to_floats(model, images[rows])), **options)


@own_keywords
def edit(model: ModelLike, images: Tensor, strength: float, **drawing: Unpack[Drawing]) -> Drawn:
    """Change images [B, C, H, W] by noise and its removal; see :func:`raysde.sampling.inverse.restore.sdedit`.

    Args:
        images: uint8, or float in the data range.
        strength: 0 for the images themselves (as a latent model's autoencoder sees them), 1 for plain sampling.

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
    """Draw images for prompts between two, all from the same noise.

    Args:
        weights: in [0, 1], for each image: 0 for the first prompt, 1 for the second.
        line: great circle or straight line between the prompts' vectors, see
            :func:`interpolate_conditions`.
        dtype, size: of the images, as for :func:`raysde.inference.sample.sample`.

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
    """Return images given what is ``measured`` of those in some rows.

    The model's own settings are not taken: they were chosen for images of which nothing is known.
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
    """Guard images of a ``shape``.

    Args:
        latents: whether a model of latents can take them too.
        whole: whether they have to be levels from 0 to 255.

    Raises:
        ValueError: if they are of another shape, type or range.
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
    """Guards float images against another scale, such as 0 to 255; a sampler may overshoot black and white a little.

    Raises:
        ValueError: if one is further outside the range than half its width, or not finite.
    """
    (low, high), (least, most) = data_range, (value.item() for value in images.aminmax())
    room = 0.5 * (high - low)
    if not (low - room <= least and most <= high + room):
        raise ValueError(
            f"{what}: float images lie in the data range, {low:g} to {high:g}, these go from {least:g} to {most:g}"
        )


def check_interpolation_weights(weights: Sequence[float]) -> None:
    """Guards the places between two ends.

    Raises:
        ValueError: if there is none, or one is outside [0, 1].
    """
    if not len(weights) or not all(0.0 <= weight <= 1.0 for weight in weights):
        raise ValueError(f"weights must lie between 0 and 1, at least one of them, got {list(weights)}")


def interpolate_conditions(first: Encoded, second: Encoded, weights: Tensor, line: Line) -> Encoded:
    """Conditions between two, each of one row, at weights [K].

    Tokens are paired by position. Between the ends each prompt's tokens are repeated, all of them equally often, to the
    least common length, which changes nothing of what pixels find that attend to them: so the images go steadily from
    those of the one prompt to those of the other.
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
    """The vectors [L, D] of the real tokens of one condition."""
    assert encoded.context is not None
    assert encoded.mask is not None
    return encoded.context[0, encoded.mask[0]]


def _interpolate_linearly(first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
    """[K, ...] on the straight line."""
    return torch.stack([torch.lerp(first, second, weight) for weight in weights])


LINES = {"spherical": likelihood.interpolate, "linear": _interpolate_linearly}
