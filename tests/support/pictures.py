"""Images as arrays and files: random ones, and files written by Pillow or from their specification."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image


def rng_image(seed: int, size: int = 8, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, channels), dtype=np.uint8)


def open_image(path: str | Path) -> torch.Tensor:
    """Return a PNG written by raysde as uint8 [C, H, W], read by Pillow alone."""
    with Image.open(path) as opened:
        array = np.array(opened)
    return torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1).contiguous()


def array_file(pixels, kind="PNG", **options):
    out = io.BytesIO()
    Image.fromarray(np.squeeze(pixels)).save(out, kind, **options)
    return out.getvalue()


def image_file(picture, kind, **options):
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def png_chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_file(width, height, depth, colour, rows, *extra):
    """Return the bytes of a PNG, built from its specification."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + b"".join(extra)
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )


RGB = rng_image(0, 16)

PICTURE = Image.fromarray(RGB)


def smooth(height=24, width=40):
    """Return a smooth picture, which JPEG changes little."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([y * 255 // height, x * 255 // width, (x + y) * 255 // (height + width)], axis=2).astype(np.uint8)
