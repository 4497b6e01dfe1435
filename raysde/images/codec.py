"""The images in shards, to arrays and back; benchmarks/decoders.py measured which library is fastest at what."""

import io
import struct

import imagecodecs
import numpy as np
import simplejpeg
from PIL import Image

Bytes = bytes | memoryview
JPEG = b"\xff\xd8"
PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
GREY, RGB = 0, 2
MAX_PIXELS = 100_000_000
"""Larger images are taken for decompression bombs."""
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
MAX_JPEG = 65_500
"""The longest side that libjpeg writes and reads."""
DAMAGE = (
    OSError, EOFError, ValueError, SyntaxError, TypeError, RuntimeError, LookupError, ArithmeticError, struct.error,
    Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow's parsers raised over the files that tests/images/test_fuzz.py and longer runs of it damaged."""


def decode_image(data: Bytes, channels: int, out: np.ndarray | None = None) -> np.ndarray:
    """Bytes of a plain PNG or JPEG to uint8 [H, W, C].

    Args:
        out: contiguous memory of the image's shape, which is filled and returned.

    Raises:
        ValueError: if they are not one, or of another shape than ``out``.
    """
    if data[:2] == JPEG:
        height, width = simplejpeg.decode_jpeg_header(data)[:2]
        check_pixels(width, height)
        check_shape((height, width), out)
        return simplejpeg.decode_jpeg(data, "GRAY" if channels == 1 else "RGB", buffer=out)
    if data[:16] != PNG_START or len(data) < 26:
        raise ValueError("it is neither PNG nor JPEG")
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    check_pixels(width, height)
    check_shape((height, width), out)
    if (depth, colour) != (8, GREY if channels == 1 else RGB):
        raise ValueError(f"it has depth {depth} and colour type {colour}, expected 8-bit {channels}-channel pixels")
    try:
        array = imagecodecs.png_decode(data)  # type: ignore[arg-type]
    except (imagecodecs.PngError, ValueError) as error:
        raise ValueError(f"it is damaged: {shorten_message(error)}") from error
    if array.size != width * height * channels:
        raise ValueError(f"it has pixels of shape {array.shape}, expected {channels} channels")
    if out is None:
        return array.reshape(height, width, channels)
    out[...] = array.reshape(height, width, channels)
    return out


def check_shape(found: tuple[int, int], out: np.ndarray | None) -> None:
    """Guards memory that an image is decoded into.

    Raises:
        ValueError: if the image is of another (height, width).
    """
    if out is not None and out.shape[:2] != found:
        raise ValueError(f"it is {found[0]} x {found[1]}, its shard says {out.shape[0]} x {out.shape[1]}")


def check_pixels(width: int, height: int) -> None:
    """Guards memory against what a header claims.

    Raises:
        ValueError: if there are too many pixels.
    """
    if width * height > MAX_PIXELS:
        raise ValueError(f"it has {height} x {width} pixels, more than {MAX_PIXELS} in all")


def shorten_message(error: BaseException) -> str:
    """What a library said, short enough for a sentence."""
    return " ".join(str(error).split())[:160] or type(error).__name__


def encode_image(picture: Image.Image, *, quality: int | None) -> bytes:
    """A picture of mode L or RGB as JPEG of a quality without chroma subsampling, or as PNG if ``quality`` is None.

    Raises:
        ValueError: if a side is too long for JPEG.
    """
    buffer = io.BytesIO()
    if quality is None:
        picture.save(buffer, format="PNG", compress_level=6, icc_profile=None)
    elif max(picture.size) > MAX_JPEG:
        raise ValueError(
            f"at {picture.height} x {picture.width} pixels it is too long for JPEG, whose limit is {MAX_JPEG}"
        )
    else:  # a comment is taken from the file that was opened, unless another is given
        picture.save(buffer, format="JPEG", quality=quality, subsampling=0, comment=b"")
    return buffer.getvalue()
