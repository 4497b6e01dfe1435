"""Decode and encode the images in shards; benchmarks/decoders.py compares the speed of the libraries."""

import io
import struct

import imagecodecs
import numpy as np
import simplejpeg
from PIL import Image
from PIL.PngImagePlugin import PngInfo

Bytes = bytes | memoryview
JPEG = b"\xff\xd8"
PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
GREY, RGB = 0, 2
MAX_PIXELS = 100_000_000
"""Number of pixels above which an image is refused as a decompression bomb."""
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
MAX_JPEG = 65_500
"""Longest side in pixels that libjpeg writes and reads."""
DAMAGE = (
    OSError, EOFError, ValueError, SyntaxError, TypeError, RuntimeError, LookupError, ArithmeticError, struct.error,
    Image.DecompressionBombError,
)  # fmt: skip
"""Exceptions that Pillow's parsers raise for damaged files, as found by tests/images/test_fuzz.py and longer runs."""


def decode_image(data: Bytes, channels: int, out: np.ndarray | None = None) -> np.ndarray:
    """Decode an 8-bit PNG or a JPEG without palette or transparency to uint8 [H, W, C].

    Args:
        data: the bytes of the file.
        channels: C, 1 for grey or 3 for RGB.
        out: contiguous uint8 array of the image's shape to fill and return; None allocates one.

    Raises:
        ValueError: if ``data`` is no such image, is damaged, or has another shape than ``out``.
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
    """Check that an image has the height and width of the array that it is decoded into.

    Raises:
        ValueError: if ``found``, its (height, width), differs from the shape of ``out``.
    """
    if out is not None and out.shape[:2] != found:
        raise ValueError(f"it is {found[0]} x {found[1]}, its shard says {out.shape[0]} x {out.shape[1]}")


def check_pixels(width: int, height: int) -> None:
    """Check the size in an image's header, in pixels, before memory for its pixels is allocated.

    Raises:
        ValueError: if the image has more than ``MAX_PIXELS`` pixels.
    """
    if width * height > MAX_PIXELS:
        raise ValueError(f"it has {height} x {width} pixels, more than {MAX_PIXELS} in all")


def shorten_message(error: BaseException) -> str:
    """Return an exception's message on one line of at most 160 characters, or its type's name if it has none."""
    return " ".join(str(error).split())[:160] or type(error).__name__


def encode_image(picture: Image.Image, *, quality: int | None, chunks: PngInfo | None = None) -> bytes:
    """Encode a picture of mode L or RGB as JPEG without chroma subsampling, or as PNG.

    Args:
        quality: JPEG quality from 1 to 100; None for PNG.
        chunks: text chunks of the PNG; see :func:`raysde.images.png.png_metadata`.

    Raises:
        ValueError: if a side exceeds ``MAX_JPEG`` pixels and the format is JPEG.
    """
    buffer = io.BytesIO()
    if quality is None:
        picture.save(buffer, format="PNG", compress_level=6, icc_profile=None, pnginfo=chunks)
    elif max(picture.size) > MAX_JPEG:
        raise ValueError(
            f"at {picture.height} x {picture.width} pixels it is too long for JPEG, whose limit is {MAX_JPEG}"
        )
    else:  # Pillow copies the comment of the opened file unless another is given
        picture.save(buffer, format="JPEG", quality=quality, subsampling=0, comment=b"")
    return buffer.getvalue()
