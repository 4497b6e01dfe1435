"""Convert images between uint8 [B, C, H, W], float and PIL, and write PNG files and grids."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from raysde.images.captions import Caption, arrange_captions, arrange_headings, draw_captions, header_height
from raysde.images.png import png_metadata
from raysde.io.errors import name_place_of_write

CELL, CAPTIONED = 64, 96
"""Width in pixels to which the images of a grid are enlarged at least, and under captions."""


def to_float(images: Tensor, low: float = -1.0, high: float = 1.0) -> Tensor:
    """Map uint8 levels 0 to 255 linearly to float32 in [low, high]; the shape is kept."""
    return images.to(torch.float32) * ((high - low) / 255.0) + low


def to_uint8(x: Tensor, low: float = -1.0, high: float = 1.0) -> Tensor:
    """Map floats in [low, high] to uint8 levels 0 to 255: clip, then round to the nearest level; the shape is kept."""
    return ((x.clamp(low, high) - low) * (255.0 / (high - low))).round().to(torch.uint8)


def to_pil(image: Tensor) -> Image.Image:
    """Convert uint8 [C, H, W] with one channel (grey) or three (RGB) to a PIL image.

    Raises:
        ValueError: if there is another number of channels.
    """
    if image.shape[0] not in (1, 3):
        raise ValueError(f"an image has 1 or 3 channels, got shape {tuple(image.shape)}")
    array = image.permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array[:, :, 0] if image.shape[0] == 1 else array)


def make_grid(
    images: Tensor,
    columns: int | None = None,
    *,
    gap: int = 1,
    cell: int | None = None,
    captions: Sequence[str] | None = None,
    headings: Sequence[str] = (),
    metadata: Mapping[str, Any] | None = None,
) -> Image.Image:
    """Arrange uint8 images [B, C, H, W] row by row on a white picture.

    Args:
        columns: number of images in a row; None for a grid as square as possible.
        gap: width in pixels of the lines between images.
        cell: smallest width of a cell in pixels (default: ``CELL``, or ``CAPTIONED`` with captions or headings); each
            image is enlarged by the whole factor that reaches it.
        captions: caption of each image; see :func:`raysde.images.captions.arrange_captions`.
        headings: text at the top of each column, above all captions; empty for none.
        metadata: values of the picture's ``info``, which :func:`save_picture` writes.

    Raises:
        ValueError: if there is no image, or an image has not one or three channels.
    """
    if len(images) == 0:
        raise ValueError("a grid needs at least one image")
    count, channels, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    usual = CAPTIONED if headings or captions is not None else CELL
    scale = max(1, math.ceil((cell or usual) / width))
    rows, height, width = math.ceil(count / columns), height * scale, width * scale
    said: list[list[Caption]] = [[]] * rows if captions is None else arrange_captions(captions, columns, width, gap)
    heights, columns_said = [header_height(row, width) for row in said], arrange_headings(headings, width)
    first = gap + header_height(columns_said, width)
    tops = [first + number * (height + gap) + sum(heights[: number + 1]) for number in range(rows)]
    canvas = torch.full((channels, tops[-1] + height + gap, columns * (width + gap) + gap), 255, dtype=torch.uint8)
    large = images.cpu().repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    for index, image in enumerate(large):
        top, left = tops[index // columns], gap + index % columns * (width + gap)
        canvas[:, top : top + height, left : left + width] = image
    picture = to_pil(canvas)
    draw_captions(picture, columns_said, first, width, gap)
    for top, row in zip(tops, said, strict=True):
        draw_captions(picture, row, top, width, gap)
    picture.info.update(metadata or {})
    return picture


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture to a file, in the format of the file's suffix; a PNG gets the text of ``picture.info``.

    Raises:
        OSError: naming the file, if it cannot be written.
    """
    with name_place_of_write("a picture", path):
        picture.save(path, pnginfo=png_metadata(picture.info))


def save_png(
    images: Tensor,
    folder: Path,
    names: Sequence[str],
    progress: Callable[[int, int], None] | None = None,
    metadata: Sequence[Mapping[str, Any]] | None = None,
) -> list[Path]:
    """Write uint8 images [B, C, H, W] as ``folder/name.png`` and return the paths.

    Args:
        names: B file names without suffix.
        progress: callback that gets the number of images written so far and the number of all.
        metadata: text of each image, see :func:`raysde.images.png.png_metadata`.

    Raises:
        OSError: naming the folder, if a file cannot be written.
    """
    paths = [folder / f"{name}.png" for name in names]
    with name_place_of_write("images", folder):
        folder.mkdir(parents=True, exist_ok=True)
        said = metadata or [{}] * len(paths)
        for done, (image, path, values) in enumerate(zip(images, paths, said, strict=True), 1):
            to_pil(image).save(path, pnginfo=png_metadata(values))
            if progress is not None:
                progress(done, len(paths))
    return paths
