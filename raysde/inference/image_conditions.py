"""Sampling by models that take images as conditions: super-resolution, inpainting and second images of the data set."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from raysde import rng
from raysde.conditioning.images import ColumnCondition, InpaintCondition, UpscaleCondition
from raysde.images.files import check_mask, decode_file, stack_images
from raysde.inference.pixels import ModelLike, device_of, to_floats, to_pixels
from raysde.inference.sample import draw_batches, prepare_start, resolve_drawing, sample
from raysde.inference.samples import Drawn
from raysde.inference.second_images import read_seconds
from raysde.models.spec import ModelSpec
from raysde.sampling import sampler
from raysde.sampling.sampler import Samples
from raysde.sde import Score

UNTRAINED = ("iterations", "resample")
"""Options of models that were not trained for the task."""


def image_columns(spec: ModelSpec) -> tuple[str, ...]:
    """Return the columns of prompt files and requests that hold the images which a model takes as conditions."""
    if spec.image_condition is None:
        return ()
    return ("image", "mask") if isinstance(spec.image_condition, InpaintCondition) else ("image",)


def read_image_conditions(
    spec: ModelSpec, files: Mapping[str, Sequence[tuple[str, bytes]]]
) -> tuple[Tensor, Tensor | None]:
    """Return images uint8 [B, C, H, W] that a model takes as conditions, and for inpainting masks bool [B, 1, H, W].

    Args:
        files: name, for messages, and content of the image files of each column of :func:`image_columns`.

    Raises:
        ValueError: naming the file that is no image or has another size than the model takes, or the missing column.
    """
    condition, (channels, height, width) = spec.image_condition, spec.image
    assert condition is not None
    for column in image_columns(spec):
        if column not in files:
            raise ValueError(f"the prompts have no column {column} beside {', '.join(files)}; add it to their file")
    if isinstance(condition, ColumnCondition):
        return read_seconds(spec, files["image"]), None
    factor = condition.factor if isinstance(condition, UpscaleCondition) else 1
    size = (height // factor, width // factor)
    images = stack_images([(name, decode_file(data, name)[0]) for name, data in files["image"]], channels, size)
    if not isinstance(condition, InpaintCondition):
        return images, None
    masks = [check_mask(*decode_file(data, name), name, size) for name, data in files["mask"]]
    return images, torch.stack(masks)[:, None]


def sample_with_images(model: ModelLike, images: Tensor, masks: Tensor | None, **drawing: Any) -> Drawn:
    """Sample images [B, C, H, W] by the task that the model was trained for.

    Args:
        images, masks: result of :func:`read_image_conditions`; for a model of second images [B, C', H, W] those.
        drawing: arguments of :func:`raysde.inference.sample.sample`.

    Raises:
        ValueError: as :func:`upscale_with_condition` and :func:`inpaint_with_condition`.
    """
    condition = model.spec.image_condition
    if isinstance(condition, ColumnCondition):
        return sample(model, condition_images=images, **drawing)
    if isinstance(condition, UpscaleCondition):
        return upscale_with_condition(model, condition, images, **drawing)
    assert isinstance(condition, InpaintCondition)
    assert masks is not None
    return inpaint_with_condition(model, condition, images, masks, **drawing)


def upscale_with_condition(
    model: ModelLike, condition: UpscaleCondition, images: Tensor, *, noise: float = 0.0, **drawing: Any
) -> Drawn:
    """Sample images [B, C, H, W] with smaller ones as the condition.

    Args:
        images: [B, C, H / factor, W / factor], uint8 or float in the data range.
        noise: standard deviation of noise that is added to them, in levels of 255; it is a condition too.
        drawing: arguments of :func:`raysde.inference.sample.sample`.

    Raises:
        ValueError: if the model was not trained with so much noise, or as :func:`raysde.inference.sample.sample`.
    """
    low, high = model.spec.data_range
    level, most = noise * (high - low) / 255.0, condition.noise * 255.0 / (high - low)
    if not 0.0 <= level <= condition.noise:
        raise ValueError(f"upscale: noise={noise:g}, but the model was trained with noise from 0 to {most:g}")
    seed, first = drawing.get("seed", 0), drawing.get("first", 0)

    def planes(rows: slice) -> Tensor:
        small = to_floats(model, images[rows])
        if level:
            seeds = seed[rows] if isinstance(seed, Sequence) else [seed] * len(small)
            keys = zip(seeds, range(first + rows.start, first + rows.stop), strict=True)
            streams = [rng.generator(own, rng.GIVEN, number, device=device_of(model)) for own, number in keys]
            small = small + level * rng.noise_from(streams)(small)
        return condition.given(small, small.new_full((len(small),), level))

    return sample_with_planes(model, len(images), planes, {"noise": noise}, drawing)


def inpaint_with_condition(
    model: ModelLike, condition: InpaintCondition, images: Tensor, mask: Tensor, *, noise: float = 0.0, **drawing: Any
) -> Drawn:
    """Fill in the unknown pixels of images [B, C, H, W], with the known ones, which are kept, as the condition.

    Args:
        images: uint8, or float in the data range.
        mask: bool, True where pixels are known, [H, W] for all images or [B, 1, H, W].
        noise: has to be 0, since known pixels are kept.
        drawing: arguments of :func:`raysde.inference.sample.sample`.

    Raises:
        ValueError: if noise is given, or as :func:`raysde.inference.sample.sample`.
    """
    if noise:
        raise ValueError(f"inpaint: noise={noise:g} has no effect on a model that is trained to inpaint; leave it out")
    known = (mask[None, None] if mask.ndim == 2 else mask).expand(len(images), 1, *images.shape[2:])

    def planes(rows: slice) -> Tensor:
        return condition.given(to_floats(model, images[rows]), known[rows].to(device_of(model)))

    drawn = sample_with_planes(model, len(images), planes, {}, drawing)
    kept = to_pixels(model, to_floats(model, images), drawn.images.dtype).cpu()
    return replace(drawn, images=torch.where(known.cpu(), kept, drawn.images))


def sample_with_planes(
    model: ModelLike,
    count: int,
    planes: Callable[[slice], Tensor],
    said: dict[str, Any],
    drawing: dict[str, Any],
) -> Drawn:
    """Sample ``count`` images given the planes of their image condition.

    Args:
        planes: function from a slice of the images to their planes [B, E, H, W].
        said: further settings for the metadata of the results.
        drawing: arguments of :func:`raysde.inference.sample.sample`.

    Raises:
        ValueError: if an option is given that only other models have, or as :func:`raysde.inference.sample.sample`.
    """
    for name in UNTRAINED:
        if drawing.pop(name, None) is not None:
            raise ValueError(
                f"{name} has no effect on a model that is trained for the task; leave it out, or give method"
            )
    shape = (count, *model.spec.image)

    def run(score: Score, rows: slice, **given: object) -> Samples:
        whole, own = prepare_start(model, shape, None, rows)
        return sampler.sample(score, model.score_model.sde, whole, **own, **given)  # type: ignore[arg-type]

    drawn = draw_batches(model, run, count, planes=planes, **resolve_drawing(model.spec, drawing))
    return replace(drawn, settings={**drawn.settings, "method": "trained", **said})
