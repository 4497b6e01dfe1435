"""Convert images between uint8 [B, C, H, W], float and PIL, and write PNG files and grids."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from raysde.images.png import png_metadata
from raysde.io.errors import name_place_of_write


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


def make_grid(images: Tensor, columns: int | None = None, *, gap: int = 1, cell: int = 64) -> Image.Image:
    """Arrange uint8 images [B, C, H, W] row by row on a white picture.

    Args:
        columns: number of images in a row; None for a grid as square as possible.
        gap: width in pixels of the lines between images.
        cell: smallest width of a cell in pixels; each image is enlarged by the whole factor that reaches it.

    Raises:
        ValueError: if there is no image, or an image has not one or three channels.
    """
    if len(images) == 0:
        raise ValueError("a grid needs at least one image")
    count, channels, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    scale = max(1, math.ceil(cell / width))
    rows = math.ceil(count / columns)
    step_y, step_x = height * scale + gap, width * scale + gap
    canvas = torch.full((channels, rows * step_y + gap, columns * step_x + gap), 255, dtype=torch.uint8)
    large = images.cpu().repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    for index, image in enumerate(large):
        top, left = gap + index // columns * step_y, gap + index % columns * step_x
        canvas[:, top : top + height * scale, left : left + width * scale] = image
    return to_pil(canvas)


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
