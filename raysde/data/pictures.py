"""Image files as people have them, to upright 8-bit grey or RGB pictures."""

import io
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from raysde.data.decode import DAMAGE, check_pixels, one_line

KINDS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM")
"""What is read: pixels only; of Pillow's other kinds some start programs, such as EPS."""
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What sets an image upright, by its EXIF orientation; Pillow's exif_transpose fails on EXIF data it cannot rewrite."""
GREY = ("1", "L", "LA", "La", "I", "F")


def open_picture(data: bytes, channels: int, *, background: int = 255) -> Image.Image:
    """An image file as a picture of mode L or RGB, turned as its EXIF data asks; the first frame of an animation.

    16-bit images keep their upper 8 bits, floats from 0 to 1 become 0 to 255, transparent images are laid on a grey of
    ``background``, and CMYK, palettes and the like are converted.

    Raises:
        ValueError: if the bytes are not a whole image, are too many pixels, or pixels of no known range.
    """
    if not data:
        raise ValueError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = _loaded(data)
    except UnidentifiedImageError:
        raise ValueError("it is not an image of a known kind") from None
    except DAMAGE as error:
        raise ValueError(f"it cannot be decoded: {one_line(error)}") from error
    return _converted(picture, "L" if channels == 1 else "RGB", background)


def _loaded(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=KINDS) as opened:
        check_pixels(*opened.size)
        opened.load()
        turn = TURNS.get(opened.getexif().get(ORIENTATION, 1))
        return opened.copy() if turn is None else opened.transpose(turn)


def _converted(picture: Image.Image, mode: str, background: int) -> Image.Image:
    if picture.mode.startswith("I"):
        picture = _upper_bits(picture)
    elif picture.mode == "F":
        picture = Image.fromarray(np.rint(_within(picture, 1) * 255.0).astype(np.uint8))
    if picture.has_transparency_data:
        over = picture.convert("RGBA")
        under = Image.new("RGBA", over.size, (background, background, background, 255))
        picture = Image.alpha_composite(under, over)
    return picture.convert(mode)


def _upper_bits(picture: Image.Image) -> Image.Image:
    values, clear = _within(picture, 65535), picture.info.get("transparency")
    result = Image.fromarray((values.astype(np.uint16) >> 8).astype(np.uint8))
    if clear is not None:
        result.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return result


def _within(picture: Image.Image, largest: int) -> np.ndarray:
    values = np.asarray(picture)
    least, most = values.min(), values.max()
    if not (least >= 0 and most <= largest):
        raise ValueError(f"its pixels are from {least} to {most}, expected 0 to {largest}")
    return values


def is_grey(data: bytes) -> bool:
    """Whether an image file holds no colour by its kind.

    Raises:
        ValueError: if it is not an image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=KINDS) as opened:
                return opened.mode in GREY or opened.mode.startswith("I;16")
    except DAMAGE as error:
        raise ValueError("it is not an image of a known kind") from error


def is_plain(data: bytes, picture: Image.Image) -> bool:
    """Whether the file's own pixels, as any decoder gives them, are those of ``picture``: nothing was converted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data), formats=KINDS) as opened:
            upright = opened.getexif().get(ORIENTATION, 1) not in TURNS
            same = opened.mode == picture.mode and opened.size == picture.size and not opened.has_transparency_data
            kind = opened.format == "JPEG" or (opened.format == "PNG" and data[24] == 8)  # bits of a channel
            return same and upright and kind and getattr(opened, "n_frames", 1) == 1
