"""Convert pixels of any bit depth, and their transparency, to 8 bits a channel."""

import imagecodecs
import numpy as np
from PIL import Image

PHOTOMETRIC, BITS = 262, 258
"""TIFF tags for photometric interpretation (value 0: level 0 is white) and for bits per sample."""
PNG_GREY, PNG_RGB = 0, 2


def convert_to_eight_bits(picture: Image.Image, opened: Image.Image, data: bytes) -> Image.Image:
    """Return a decoded picture with 8 bits a channel; 16 bits keep their upper 8, floats from 0 to 1 become 0 to 255.

    Args:
        picture: pixels as Pillow decodes them.
        opened: the opened image file, for its format and tags.
        data: the bytes of that file.

    Raises:
        ValueError: if pixels are outside the range of their type: 0 to 4095, 0 to 65535, or 0 to 1 for floats.
    """
    if opened.format == "PNG" and "transparency" in opened.info:
        return _read_transparent_png(picture, data)
    if not picture.mode.startswith(("I", "F")):
        return picture
    tags = getattr(opened, "tag_v2", {})
    largest = 1 if picture.mode == "F" else 4095 if tags.get(BITS) == (12,) else 65535
    values = np.asarray(picture)
    least, most = values.min(), values.max()
    if not (least >= 0 and most <= largest):
        raise ValueError(f"its pixels are from {least} to {most}, expected 0 to {largest}; scale them to that")
    if tags.get(PHOTOMETRIC) == 0:
        values = largest - values
    if picture.mode == "F":
        return Image.fromarray(np.rint(values * 255.0).astype(np.uint8))
    return Image.fromarray((values.astype(np.uint16) >> (4 if largest == 4095 else 8)).astype(np.uint8))


def _read_transparent_png(picture: Image.Image, data: bytes) -> Image.Image:
    """Apply a PNG's transparent colour at the file's own bit depth; Pillow compares only 8 bits."""
    depth, colour = data[24], data[25]
    clear = picture.info["transparency"]
    if depth == 16 and colour == PNG_RGB:
        deep = imagecodecs.png_decode(data)
        if deep.shape != (picture.height, picture.width, 4):
            raise ValueError(f"its pixels are of shape {deep.shape}, expected {picture.height} x {picture.width} x 4")
        return Image.fromarray((deep >> 8).astype(np.uint8))
    if depth == 16 and colour == PNG_GREY:
        values = np.asarray(picture)
        result = Image.fromarray((values.astype(np.uint16) >> 8).astype(np.uint8))
        result.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
        return result
    if depth in (2, 4) and colour == PNG_GREY:
        most = (1 << depth) - 1
        picture.info["transparency"] = (clear & most) * 255 // most
    return picture


def is_black(picture: Image.Image) -> bool:
    """Return True if a picture of more than 8 bits has no value above 255, though not only zeros."""
    if not picture.mode.startswith("I"):
        return False
    return 0 < np.asarray(picture).max() <= 255
