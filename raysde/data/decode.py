"""The images in shards, to arrays and back; benchmarks/decoders.py measured which library is fastest at what."""

import io

import numpy as np
import simplejpeg
from PIL import Image

JPEG = b"\xff\xd8"
MAX_PIXELS = 100_000_000
"""Larger images are taken for decompression bombs."""
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
DAMAGE = (OSError, ValueError, SyntaxError, TypeError, RuntimeError, Image.DecompressionBombError)
"""What Pillow's parsers raised over the files that tests/test_fuzz.py and longer runs of it damaged."""


def decode_image(data: bytes, channels: int) -> np.ndarray:
    """Bytes of a plain PNG or JPEG to uint8 [H, W, C].

    Raises:
        ValueError: if they are not one.
    """
    mode = "L" if channels == 1 else "RGB"
    if data[:2] == JPEG:
        check_pixels(*simplejpeg.decode_jpeg_header(data)[:2])
        return simplejpeg.decode_jpeg(data, "GRAY" if channels == 1 else "RGB")
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            check_pixels(*picture.size)
            array, found = np.asarray(picture), picture.mode
    except DAMAGE as error:
        raise ValueError(f"it is damaged: {one_line(error)}") from error
    if found != mode:
        raise ValueError(f"its mode is {found}, expected {mode}")
    return array.reshape(*array.shape[:2], channels)


def check_pixels(width: int, height: int) -> None:
    """Guards memory against what a header claims.

    Raises:
        ValueError: if there are too many pixels.
    """
    if width * height > MAX_PIXELS:
        raise ValueError(f"it has {width} x {height} pixels, more than {MAX_PIXELS} in all")


def one_line(error: BaseException) -> str:
    """What a library said, short enough for a sentence."""
    return " ".join(str(error).split())[:160] or type(error).__name__


def encode_image(picture: Image.Image, *, quality: int | None) -> bytes:
    """A picture of mode L or RGB as JPEG of a quality without chroma subsampling, or as PNG if ``quality`` is None."""
    buffer = io.BytesIO()
    if quality is None:
        picture.save(buffer, format="PNG", compress_level=6, icc_profile=None)
    else:
        picture.save(buffer, format="JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()
