"""From pictures of any size to the sizes that are trained on: fitting, boxes, and buckets of aspect ratios."""

from PIL import Image

from raysde.images.choices import Fit
from raysde.images.codec import check_pixels
from raysde.images.sizes import Size

RATIOS = (0.5, 0.57, 0.67, 0.75, 0.875, 1.0, 1.14, 1.33, 1.5, 1.75, 2.0)
"""Width to height of the buckets."""
Box = tuple[float, float, float, float]


def centred_box(size: tuple[int, int], shape: tuple[int, int]) -> Box:
    """The largest box (left, top, right, bottom) in the middle of a picture with the proportions of ``shape``.

    Args:
        size: (width, height) of the picture.
        shape: (height, width) wanted.
    """
    return placed_box(size, shape, 1.0, 0.5, 0.5)


def placed_box(size: tuple[int, int], shape: tuple[int, int], scale: float, x: float, y: float) -> Box:
    """A box of the proportions of ``shape``, ``scale`` times the largest such box, at a place of the free room.

    Args:
        x, y: 0 is left and top, 1 right and bottom.
    """
    (width, height), (rows, cols) = size, shape
    unit = min(width / cols, height / rows) * scale
    wide, high = min(unit * cols, width), min(unit * rows, height)
    left, top = x * (width - wide), y * (height - high)
    return left, top, min(left + wide, width), min(top + high, height)


def fit_picture(picture: Image.Image, fit: Fit, size: Size | None, background: int) -> Image.Image:
    """A picture brought to ``size`` as ``fit`` says.

    Args:
        size: (height, width); None leaves the picture as it is.
        background: grey value of the border that "pad" adds.

    Raises:
        ValueError: if the picture is so long that at the size it would be too many pixels.
    """
    if size is None or fit == "keep":
        return picture
    if fit == "crop":
        return resize_box(picture, size, centred_box(picture.size, size))
    if fit == "stretch":
        return resize_box(picture, size)
    rows, cols = size
    sides = ((cols, picture.width), (rows, picture.height))
    tightest = max if fit == "short" else min
    wanted, side = tightest(sides, key=lambda each: each[0] / each[1])
    width, height = (max(1, round(length * wanted / side)) for length in picture.size)
    check_pixels(width, height)
    scaled = resize_box(picture, (height, width))
    if fit == "short" or (height, width) == size:
        return scaled
    padded = Image.new(picture.mode, (cols, rows), background if picture.mode == "L" else (background,) * 3)
    padded.paste(scaled, ((cols - width) // 2, (rows - height) // 2))
    return padded


def resize_box(picture: Image.Image, shape: tuple[int, int], box: Box | None = None) -> Image.Image:
    """A box of a picture at (height, width) ``shape``."""
    whole = (0.0, 0.0, *map(float, picture.size))
    if (shape[1], shape[0]) == picture.size and box in (None, whole):
        return picture
    return picture.resize((shape[1], shape[0]), Image.Resampling.LANCZOS, box=box)


def bucket_shapes(size: int, multiple: int) -> tuple[tuple[int, int], ...]:
    """(height, width) of the buckets: about size x size pixels at each of ``RATIOS``, sides multiples of a number."""

    def side(length: float) -> int:
        return max(multiple, round(length / multiple) * multiple)

    return tuple(dict.fromkeys((side(size / ratio**0.5), side(size * ratio**0.5)) for ratio in RATIOS))


def nearest_bucket(size: tuple[int, int], shapes: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """The bucket whose proportions are nearest to those of a picture of (width, height) ``size``."""
    ratio = size[0] / size[1]
    return min(shapes, key=lambda shape: (max(ratio * shape[0] / shape[1], shape[1] / (ratio * shape[0])), shape))
