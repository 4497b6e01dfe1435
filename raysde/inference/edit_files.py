"""Edit image files by a model, and arrange inputs beside results."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from raysde.images.files import open_mask, stack_images
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
    """Inpaint, colorise, upscale or redraw images; exactly one of the last four named arguments selects which.

    Args:
        files: name, for errors, and image, uint8 [C, H, W], of each file.
        mask: path of a mask file; white pixels are kept.
        colorise: True to colour the images' channel means.
        upscale: integer factor by which images are enlarged to the model's size.
        strength: noise strength from 0, the image itself, to 1, a new image.
        options: keyword arguments of the model's methods ``inpaint``, ``colorise``, ``upscale`` and ``edit``.

    Returns:
        The known part of the inputs as visible images, uint8 [B, C, H, W], and the results.

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
            raise ValueError(f"--upscale {upscale} does not divide the model's {height} x {width} images; give another")
        small = stack_images(files, channels, (height // upscale, width // upscale))
        large = small.repeat_interleave(upscale, dim=2).repeat_interleave(upscale, dim=3)
        return large, model.upscale(small, upscale, **options)
    assert strength is not None
    images = stack_images(files, channels, (height, width))
    return images, model.edit(images, strength, **options)


def average_channels(image: Tensor) -> Tensor:
    """Return the mean over the channels of an image [C, H, W], rounded to uint8 [1, H, W]."""
    return image.float().mean(dim=0, keepdim=True).round().to(torch.uint8)


def draw_sheet(names: Sequence[str], shown: Tensor, drawn: Drawn, n: int, done: str) -> Image.Image:
    """Return a picture of each input beside its ``n`` results, under the file's name and the results' captions.

    Args:
        names: file names of the inputs, each ``n`` times in a row.
        shown: inputs as they are shown, uint8 [B n, C or 1, H, W], in the same order.
        drawn: results, images [B n, C, H, W], in the same order.
        done: caption of results without a prompt or label.
    """
    results, said = drawn.images, drawn.captions or [done] * len(names)
    inputs = shown[::n].expand(-1, results.shape[1], -1, -1)
    rows = torch.cat([inputs[:, None], results.unflatten(0, (-1, n))], dim=1)
    captions = [each for start in range(0, len(names), n) for each in (names[start], *said[start : start + n])]
    return make_grid(rows.flatten(0, 1), n + 1, captions=captions, metadata=drawn.metadata())
