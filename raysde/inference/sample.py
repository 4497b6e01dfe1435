"""Sample images from a trained model: prompts, guidance, batches, and one random stream for each image."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, Unpack

import torch
from torch import Tensor

from raysde import rng
from raysde.data.classes import Label, describe_difference
from raysde.images.sizes import Size, read_size
from raysde.images.tensors import to_uint8
from raysde.inference.conditions import (
    Attributes,
    attribute_tensor,
    count_images,
    encode_rows,
    known_values,
    label_numbers,
    select_rows,
)
from raysde.inference.guidance import Guidance, Interval, Led
from raysde.inference.pixels import ModelLike, check_dtype, device_of, to_frames, to_pixels, weights_hash
from raysde.inference.samples import Drawn, DrawnPath, make_samples
from raysde.inference.second_images import second_planes
from raysde.io.keywords import own_keywords
from raysde.models.sampling_defaults import resolve_settings
from raysde.models.spec import ModelSpec
from raysde.sampling import path, sampler
from raysde.sampling.method import Method, Settings, check_timed, drop_grid_settings
from raysde.sampling.sampler import Callback, Samples
from raysde.sde import Score


class Drawing(Settings, total=False):
    """Keyword arguments of all sampling functions; see :func:`sample`."""

    prompts: Sequence[str] | None
    labels: Sequence[Label] | None
    attributes: Attributes | None
    seed: int | Sequence[int]
    guidance: float
    guidance_interval: Interval | None
    negative: str | Sequence[str] | None
    autoguide: ModelLike | None
    autoguidance: float | None
    batch_size: int
    first: int
    progress: Callable[[int, int], None] | None
    dtype: torch.dtype


class DrawRows(Protocol):
    """A function that samples the images ``rows`` of a call, [B, ...], by the score under their conditions."""

    def __call__(
        self,
        score: Score,
        rows: slice,
        *,
        generator: Sequence[torch.Generator],
        callback: Callback | None,
        **settings: Unpack[Settings],
    ) -> Samples: ...


@own_keywords
def sample(
    model: ModelLike,
    *,
    prompts: Sequence[str] | None = None,
    labels: Sequence[Label] | None = None,
    attributes: Attributes | None = None,
    n: int | None = None,
    seed: int | Sequence[int] = 0,
    guidance: float | None = None,
    guidance_interval: Interval | None = None,
    negative: str | Sequence[str] | None = None,
    autoguide: ModelLike | None = None,
    autoguidance: float | None = None,
    batch_size: int = 256,
    first: int = 0,
    progress: Callable[[int, int], None] | None = None,
    size: Size | int | str | None = None,
    start: Tensor | None = None,
    times: Tensor | None = None,
    dtype: torch.dtype = torch.uint8,
    condition_images: Tensor | None = None,
    **settings: Unpack[Settings],
) -> Drawn:
    """Sample images [N, C, H, W].

    Args:
        prompts, labels: one for each image; both may be given. A label is a class name or a class number.
        attributes: numeric attributes by name, such as ``{"age": 30}``: a number for all images, or a list with one
            for each, None for unknown. Values outside the range of the training data cause a warning.
        n: number of images if no lists of conditions are given.
        seed: one seed for all images, or one for each.
        guidance, guidance_interval: classifier-free guidance scale (1 disables it), and the noise levels sigma / alpha
            (low, high] at which it applies; (0, math.inf) for all. Both default to the model's own settings, see
            :func:`raysde.models.sampling_defaults.resolve_settings`.
        negative: negative prompt, for all images or one for each; by default the empty prompt.
        autoguide, autoguidance: a smaller or less trained model of the same SDE and image shape, and its guidance
            scale if ``guidance`` by the empty or negative prompt applies as well; see
            :class:`raysde.inference.guidance.Autoguided` and :class:`raysde.inference.guidance.TwiceGuided`.
        batch_size: number of images sampled at a time.
        first: number of the first image, to continue an earlier call.
        progress: callback that gets the solver steps taken so far and of all, over all batches.
        size: (height, width) of the images, or one number for both; by default the model's own.
        start: x_t at the first time, float [N, C, H, W] in pixels or latents, instead of a sample of the prior.
        times: decreasing times in [0, 1], 1-D, that replace the grid by ``steps``, ``grid`` and ``rho``.
        dtype: torch.uint8, or torch.float32 for floats in the data range, neither clipped nor rounded.
        condition_images: second image of each image, such as a depth map, [N, C', H, W] in pixels, uint8 or float in
            the data range; a model that takes them draws without them as if they had been dropped.
        settings: fields of :class:`raysde.sampling.method.Method`, which default to the model's own settings.

    Raises:
        ValueError: if counts differ, the model cannot take a condition or size, or a setting has no effect.
    """
    drawing = {
        "prompts": prompts, "labels": labels, "attributes": attributes, "negative": negative,
        "autoguide": autoguide, "guidance": guidance,
        "guidance_interval": guidance_interval, "autoguidance": autoguidance, "seed": seed, "first": first,
        "batch_size": batch_size, "progress": progress, "dtype": dtype, **settings,
    }  # fmt: skip
    asked = n if n is not None or condition_images is None else len(condition_images)
    shape = requested_shape(model.spec, drawing, asked, size, start)
    planes = second_planes(model, condition_images, shape)

    def run(score: Score, rows: slice, **given: object) -> Samples:
        whole, own = prepare_start(model, shape, start, rows)
        return sampler.sample(score, model.score_model.sde, whole, times=times, **own, **given)  # type: ignore[arg-type]

    drawn = draw_batches(
        model, run, shape[0], times=times, planes=planes, **resolve_drawing(model.spec, drawing, times)
    )
    return show_seconds(model.spec, drawn, condition_images)


@own_keywords
def sample_path(
    model: ModelLike,
    points: int,
    *,
    n: int | None = None,
    size: Size | int | str | None = None,
    start: Tensor | None = None,
    times: Tensor | None = None,
    condition_images: Tensor | None = None,
    **drawing: Unpack[Drawing],
) -> DrawnPath:
    """Sample the same images as :func:`sample`, and keep ``points`` states of each path, evenly spaced in log-SNR.

    Args:
        points: number of states; the first is at the first time, the last at the last.
        n, size, start, times, condition_images, drawing: arguments of :func:`sample`, such as start [N, C, H, W] and
            times, 1-D.

    Raises:
        ValueError: if there are fewer than two points, or as :func:`sample`.
    """
    asked = n if n is not None or condition_images is None else len(condition_images)
    sde, shape, paths = model.score_model.sde, requested_shape(model.spec, drawing, asked, size, start), []
    planes = second_planes(model, condition_images, shape)

    def run(score: Score, rows: slice, **given: object) -> Samples:
        whole, own = prepare_start(model, shape, start, rows)
        paths.append(path.sample_path(score, sde, whole, points, times=times, **own, **given))  # type: ignore[arg-type]
        return paths[-1].end

    found = draw_batches(
        model, run, shape[0], times=times, planes=planes, **resolve_drawing(model.spec, drawing, times)
    )
    found = show_seconds(model.spec, found, condition_images)
    x, x0_hat = (torch.cat([getattr(each, name) for each in paths], dim=1).cpu() for name in ("x", "x0_hat"))
    return DrawnPath(
        **vars(found),
        times=paths[0].times,
        log_snr=sde.log_snr(paths[0].times),
        x=x.transpose(0, 1),
        x0_hat=x0_hat.transpose(0, 1),
        frames=torch.stack([to_frames(model, x, paths[0].times), to_frames(model, x0_hat, None)], dim=1),
    )


def show_seconds(spec: ModelSpec, drawn: Drawn, images: Tensor | None) -> Drawn:
    """Return drawn images with the second images that they were drawn for, [N, C, H, W]; unchanged without them."""
    if images is None:
        return drawn
    shown = images if images.dtype == torch.uint8 else to_uint8(images, *spec.data_range)
    return replace(drawn, condition_images=shown.cpu())


def resolve_drawing(spec: ModelSpec, drawing: Mapping[str, Any], times: Tensor | None = None) -> dict[str, Any]:
    """Return the arguments of :func:`draw_batches`; settings absent from ``drawing`` default to the model's own.

    Args:
        times: decreasing times, 1-D, that replace the settings of the time grid.

    Raises:
        ValueError: as :func:`raysde.models.sampling_defaults.resolve_settings`, or if ``drawing`` has settings of a
            time grid beside ``times``.
    """
    conditional = any(drawing.get(name) is not None for name in ("prompts", "labels")) or bool(
        drawing.get("attributes")
    )
    if times is None:
        return resolve_settings(spec.generation, drawing, conditional, usual=spec.default_solver)
    check_timed(drawing)
    return drop_grid_settings(resolve_settings(spec.generation, drawing, conditional, usual=spec.default_solver))


@torch.no_grad()
def draw_batches(
    model: ModelLike,
    run: DrawRows,
    count: int,
    *,
    share: float = 1.0,
    times: Tensor | None = None,
    planes: Callable[[slice], Tensor] | None = None,
    prompts: Sequence[str] | None = None,
    labels: Sequence[Label] | None = None,
    attributes: Attributes | None = None,
    seed: int | Sequence[int] = 0,
    guidance: float = 1.0,
    guidance_interval: Interval | None = None,
    negative: str | Sequence[str] | None = None,
    autoguide: ModelLike | None = None,
    autoguidance: float | None = None,
    batch_size: int = 256,
    first: int = 0,
    progress: Callable[[int, int], None] | None = None,
    dtype: torch.dtype = torch.uint8,
    **settings: Unpack[Settings],
) -> Drawn:
    """Sample ``count`` images by ``run``, batch by batch; other arguments as for :func:`sample`.

    Args:
        run: function that samples a slice of the images from a score.
        share: part of the time grid, from 0 to 1, that ``run`` steps through, counted from the data's end.
        times: falling times, 1-D, that ``run`` steps through instead.
        planes: function from a slice of the images to the planes of their image condition [B, E, H, W].

    Raises:
        ValueError: if prompts, labels or seeds are not ``count``, ``batch_size`` is below 1, or as :func:`sample`.
    """
    count_images(prompts, labels, count)
    numbers, sde = label_numbers(model.spec, labels), model.score_model.sde
    values = attribute_tensor(model.spec, attributes, count)
    seeds = seed if isinstance(seed, Sequence) else [seed] * count
    if len(seeds) != count:
        raise ValueError(f"{len(seeds)} seeds were given for {count} images; give one seed, or one for each image")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    leading = make_guidance(model, count, guidance, guidance_interval, negative, autoguide, autoguidance)
    check_dtype(dtype)
    steps = len(Method(**settings).last_times(sde, share) if times is None else times) - 1
    parts, nfe, total = [], 0, steps * -(-count // batch_size)
    for done, start in enumerate(range(0, count, batch_size)):
        rows = slice(start, min(count, start + batch_size))
        own = None if values is None else values[rows]
        encoded = encode_rows(
            select_rows(prompts, rows),
            select_rows(numbers, rows),
            rows.stop - start,
            own,
            None if planes is None else planes(rows),
        )
        score = leading.rows(rows).score(model.score_model, encoded, rows.stop - start)
        keys = zip(seeds[rows], range(first + start, first + rows.stop), strict=True)
        generators = [rng.generator(each, rng.IMAGE, number) for each, number in keys]
        callback = _make_callback(progress, done * steps, total)
        one = run(score.score, rows, generator=generators, callback=callback, **settings)
        nfe = max(nfe, one.nfe)
        parts.append(to_pixels(model, one.x, dtype).cpu())
    said = {
        "guidance": guidance, "guidance_interval": guidance_interval, "negative": negative, **settings,
        "autoguide": autoguide and weights_hash(autoguide), "autoguidance": autoguidance,
        "strength": None if share == 1.0 else share,
    }  # fmt: skip
    known = known_values(model.spec, values)
    images = torch.cat(parts)
    return make_samples(
        model, images, prompts, seed, nfe, said, numbers=numbers, attributes=known, first=first, times=times
    )


def requested_shape(
    spec: ModelSpec, drawing: Mapping[str, Any], n: int | None, size: Size | int | str | None, start: Tensor | None
) -> tuple[int, int, int, int]:
    """Return the shape [N, C, H, W] of the samples, in pixels or latents, from the arguments of :func:`sample`.

    Raises:
        ValueError: if counts differ, the network cannot take the size, or ``start`` has another shape or no floats.
    """
    asked = len(start) if n is None and start is not None and start.ndim == 4 else n
    count = count_images(drawing.get("prompts"), drawing.get("labels"), asked, drawing.get("attributes"))
    shape = spec.shape_of(None if size is None else read_size(size))
    if start is not None and size is None and start.ndim == 4 and spec.latent is None:
        shape = spec.shape_of((start.shape[2], start.shape[3]))
    if start is not None and (start.shape != (count, *shape) or not start.is_floating_point()):
        raise ValueError(
            f"start must be floats of shape {[count, *shape]}, got {start.dtype} of shape {list(start.shape)}"
        )
    if start is not None and not start.isfinite().all():
        raise ValueError("start holds NaN or infinity; give finite numbers")
    return (count, *shape)


def prepare_start(
    model: ModelLike, shape: tuple[int, int, int, int], start: Tensor | None, rows: slice
) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Return the shape [B, C, H, W] of a slice of the images, and the sampler's arguments ``start`` and ``device``."""
    device = device_of(model)
    own = None if start is None else start[rows].to(device, torch.float32)
    return (rows.stop - rows.start, *shape[1:]), {"start": own, "device": device}


def conditional_score(
    model: ModelLike,
    prompts: Sequence[str] | None,
    labels: Sequence[Label] | None,
    count: int,
    guidance: float,
    attributes: Attributes | None = None,
) -> Led:
    """Return the score of ``count`` images under their conditions, with the model in evaluation mode.

    Args:
        prompts, labels: one for each image; None without. A label that is no class of the model raises ValueError.
        guidance: classifier-free guidance scale, from 0; 1 disables guidance.
        attributes: numeric attributes as for :func:`sample`.
    """
    values = attribute_tensor(model.spec, attributes, count)
    encode = encode_rows(prompts, label_numbers(model.spec, labels), count, values)
    return Guidance(scale=guidance).score(model.score_model, encode, count)


def make_guidance(
    model: ModelLike,
    count: int,
    guidance: float,
    guidance_interval: Interval | None,
    negative: str | Sequence[str] | None,
    autoguide: ModelLike | None,
    autoguidance: float | None = None,
) -> Guidance:
    """Return the guidance settings of ``count`` images; the arguments are those of :func:`sample`.

    Raises:
        ValueError: if there is not one negative prompt for each image, the guide model has another SDE, image shape or
            other conditions, ``autoguidance`` is given without a guide, or ``guidance`` beside it for an unconditional
            model.
    """
    if guidance != 1.0 and not model.score_model.is_conditional and autoguidance is not None:
        raise ValueError(
            f"guidance={guidance} was given beside autoguidance, but the model is unconditional; leave it at 1"
        )
    negatives = [negative] * count if isinstance(negative, str) else negative
    if negatives is not None and len(negatives) != count:
        raise ValueError(f"{len(negatives)} negative prompts were given for {count} images; give one, or one for each")
    if autoguide is None:
        return Guidance(scale=guidance, interval=guidance_interval, negatives=negatives, autoguidance=autoguidance)
    for name in ("sde", "image", "data_range", "latent"):
        own, its = getattr(model.spec, name), getattr(autoguide.spec, name)
        if own != its:
            raise ValueError(f"autoguide: its {name} is {its}, the model's is {own}")
    taken, its = model.score_model.conditioner, autoguide.score_model.conditioner
    theirs, ours = ((each.encoder is None, each.classes) for each in (its, taken))
    if its.width is not None and (theirs != ours or autoguide.spec.attributes != model.spec.attributes):
        raise ValueError("autoguide: it takes other conditions than the model; give one with the same or none")
    if autoguide.spec.image_condition not in (None, model.spec.image_condition):
        raise ValueError(
            "autoguide: it takes other images as conditions than the model; give one with the same or none"
        )
    if own := describe_difference(model.spec.class_names, autoguide.spec.class_names or model.spec.class_names):
        raise ValueError(f"autoguide: it knows other classes than the model: {own}")
    guide = autoguide.score_model.to(device_of(model))
    return Guidance(
        scale=guidance, interval=guidance_interval, negatives=negatives, guide=guide, autoguidance=autoguidance
    )


def _make_callback(progress: Callable[[int, int], None] | None, before: int, total: int) -> Callback | None:
    """Return the sampler's callback that adds ``before``, the steps of earlier batches, and calls ``progress``."""
    if progress is None:
        return None
    return lambda step, _: progress(before + step, total)
