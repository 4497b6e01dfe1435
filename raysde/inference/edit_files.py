"""Editing images that come as files: what of them a model is given, and a sheet that shows inputs beside results."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from raysde.images.files import open_mask
from raysde.images.tensors import make_grid
from raysde.inference.model import Model
from raysde.inference.samples import Drawn


def edit_files(
    model: Model,
    files: Sequence[tuple[str, Tensor]],
    *,
    mask: str | None = None,
    colorise: bool = False,
    upscale: int | None = None,
    strength: float | None = None,
    **options: Any,
) -> tuple[Tensor, Drawn]:
    """Fill in, colour, enlarge or redraw images from files; exactly one of the four says which.

    Args:
        files: the name of each file, for errors, and its image, uint8 [C, H, W].
        mask: file whose white pixels are kept.
        upscale: times by which images are enlarged to the model's size.
        strength: from 0, the image itself, to 1, a new one.
        options: as for the model's methods ``inpaint``, ``colorise``, ``upscale`` and ``edit``.

    Returns:
        What was known of the inputs, uint8 [B, C, H, W] to look at, and the results.

    Raises:
        ValueError: if an image or the mask does not fit the model.
    """
    assert sum((mask is not None, colorise, upscale is not None, strength is not None)) == 1
    latent = model.spec.latent
    channels, height, width = model.spec.image if latent is None else latent.pixels
    if mask is not None:
        images, known = stack_images(files, channels, (height, width)), open_mask(mask, (height, width))
        return images.where(known, images.new_tensor(128)), model.inpaint(images, known, **options)
    if colorise:
        grey = stack_images([(path, average_channels(image)) for path, image in files], 1, (height, width))
        return grey, model.colorise(grey, **options)
    if upscale is not None:
        if upscale < 1 or height % upscale or width % upscale:
            raise ValueError(f"--upscale {upscale} does not divide the model's {height} x {width} images")
        small = stack_images(files, channels, (height // upscale, width // upscale))
        large = small.repeat_interleave(upscale, dim=2).repeat_interleave(upscale, dim=3)
        return large, model.upscale(small, upscale, **options)
    assert strength is not None
    images = stack_images(files, channels, (height, width))
    return images, model.edit(images, strength, **options)


def stack_images(files: Sequence[tuple[str, Tensor]], channels: int, size: tuple[int, int]) -> Tensor:
    """uint8 [B, C, H, W]; a grey image has three equal channels where the model has three, as when it is ingested.

    Raises:
        ValueError: naming an image of another size or number of channels, and both.
    """
    files = [(path, image.expand(3, -1, -1) if (len(image), channels) == (1, 3) else image) for path, image in files]
    for path, image in files:
        if image.shape != (channels, *size):
            raise ValueError(
                f"{path} is {describe_shape(*image.shape)}, the model takes {describe_shape(channels, *size)} here"
            )
    return torch.stack([image for _, image in files])


def describe_shape(channels: int, height: int, width: int) -> str:
    """A shape for people, height x width."""
    return (
        f"{height} x {width} and {'grey' if channels == 1 else 'RGB' if channels == 3 else f'of {channels} channels'}"
    )


def average_channels(image: Tensor) -> Tensor:
    """uint8 [1, H, W]: the mean over channels, to the nearest level."""
    return image.float().mean(dim=0, keepdim=True).round().to(torch.uint8)


def draw_sheet(names: Sequence[str], shown: Tensor, drawn: Drawn, n: int, done: str) -> Image.Image:
    """Return a picture of each input beside its results, under the file's name and the results' prompts or labels.

    Args:
        names: of the inputs, which come ``n`` times each.
        shown: the inputs to look at, uint8 [B, C, H, W].
        done: what stands above results without a prompt or label.
    """
    results, said = drawn.images, drawn.captions or [done] * len(names)
    inputs = shown[::n].expand(-1, results.shape[1], -1, -1)
    rows = torch.cat([inputs[:, None], results.unflatten(0, (-1, n))], dim=1)
    captions = [each for start in range(0, len(names), n) for each in (names[start], *said[start : start + n])]
    return make_grid(rows.flatten(0, 1), n + 1, captions=captions, metadata=drawn.metadata())
