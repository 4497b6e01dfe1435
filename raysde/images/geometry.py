"""Crop and scale pictures of any size to the sizes of training images: fitting, boxes and aspect-ratio buckets."""

from PIL import Image

from raysde.images.choices import Fit
from raysde.images.codec import check_pixels
from raysde.images.sizes import Size

RATIOS = (0.5, 0.57, 0.67, 0.75, 0.875, 1.0, 1.14, 1.33, 1.5, 1.75, 2.0)
"""Aspect ratios of the buckets, width divided by height."""
Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels of the picture; fractions are allowed."""


def centred_box(size: tuple[int, int], shape: tuple[int, int]) -> Box:
    """Return the largest central box in a picture of (width, height) ``size`` with the proportions of ``shape``."""
    return placed_box(size, shape, 1.0, 0.5, 0.5)


def placed_box(size: tuple[int, int], shape: tuple[int, int], scale: float, x: float, y: float) -> Box:
    """Return a box with the proportions of ``shape`` at a given place in a picture.

    Args:
        size: (width, height) of the picture in pixels.
        shape: (height, width) to which the box will be scaled.
        scale: side of the box as a fraction of the largest such box, in (0, 1].
        x, y: place within the remaining margin: 0 is the left or top edge, 1 the right or bottom one.
    """
    (width, height), (rows, cols) = size, shape
    unit = min(width / cols, height / rows) * scale
    wide, high = min(unit * cols, width), min(unit * rows, height)
    left, top = x * (width - wide), y * (height - high)
    return left, top, min(left + wide, width), min(top + high, height)


def fit_picture(
    picture: Image.Image,
    fit: Fit,
    size: Size | None,
    background: int,
    resample: Image.Resampling = Image.Resampling.LANCZOS,
) -> Image.Image:
    """Scale a picture to ``size``, and crop or pad it as ``fit`` requires.

    Args:
        fit: one of :data:`raysde.images.choices.FITS`.
        size: (height, width); None leaves the picture as it is.
        background: grey level from 0 to 255 of the border that "pad" adds.
        resample: resampling filter.

    Raises:
        ValueError: if the scaled picture would have more than ``MAX_PIXELS`` pixels.
    """
    if size is None or fit == "keep":
        return picture
    if fit == "crop":
        return resize_box(picture, size, centred_box(picture.size, size), resample)
    if fit == "stretch":
        return resize_box(picture, size, resample=resample)
    rows, cols = size
    sides = ((cols, picture.width), (rows, picture.height))
    tightest = max if fit == "short" else min
    wanted, side = tightest(sides, key=lambda each: each[0] / each[1])
    width, height = (max(1, round(length * wanted / side)) for length in picture.size)
    check_pixels(width, height)
    scaled = resize_box(picture, (height, width), resample=resample)
    if fit == "short" or (height, width) == size:
        return scaled
    padded = Image.new(picture.mode, (cols, rows), background if picture.mode == "L" else (background,) * 3)
    padded.paste(scaled, ((cols - width) // 2, (rows - height) // 2))
    return padded


def resize_box(
    picture: Image.Image,
    shape: tuple[int, int],
    box: Box | None = None,
    resample: Image.Resampling = Image.Resampling.LANCZOS,
) -> Image.Image:
    """Scale a box of a picture, or the whole picture, to (height, width) ``shape``, by Lanczos resampling if no other
    is asked for."""
    whole = (0.0, 0.0, *map(float, picture.size))
    if (shape[1], shape[0]) == picture.size and box in (None, whole):
        return picture
    return picture.resize((shape[1], shape[0]), resample, box=box)


def bucket_shapes(size: int, multiple: int) -> tuple[tuple[int, int], ...]:
    """Return (height, width) of the buckets: about ``size**2`` pixels at each of ``RATIOS``.

    Sides are whole multiples of ``multiple`` pixels.
    """

    def side(length: float) -> int:
        return max(multiple, round(length / multiple) * multiple)

    return tuple(dict.fromkeys((side(size / ratio**0.5), side(size * ratio**0.5)) for ratio in RATIOS))


def nearest_bucket(size: tuple[int, int], shapes: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """Return the bucket (height, width) nearest to a picture of (width, height) ``size`` in log aspect ratio."""
    ratio = size[0] / size[1]
    return min(shapes, key=lambda shape: (max(ratio * shape[0] / shape[1], shape[1] / (ratio * shape[0])), shape))
