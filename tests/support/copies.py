"""Pictures of known content, and copies of them: resized, recompressed, cropped."""

import io

import numpy as np
from PIL import Image


def draw_scene(seed: int, side: int = 64) -> Image.Image:
    """Return a picture with a random spectrum that falls as that of photographs does, [side, side] RGB."""
    rng = np.random.default_rng([7, seed])
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]) * side
    noise = rng.standard_normal((3, *frequency.shape)) + 1j * rng.standard_normal((3, *frequency.shape))
    grey = noise[:1] + 0.2 * noise[1:2]
    field = np.fft.irfft2(
        np.concatenate([grey, grey, 0.5 * grey + 0.5 * noise[2:]]) / (1.0 + frequency) ** 1.3, s=(side,) * 2
    )
    levels = 128 + 48 * (field - field.mean()) / field.std()
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def resized(picture, factor):
    return picture.resize([round(side * factor) for side in picture.size], Image.Resampling.BICUBIC)


def recompressed(picture, quality):
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality)
    return Image.open(io.BytesIO(out.getvalue()))


def cropped(picture, share, rng):
    """Return a picture without ``share`` of its height and width, at a random place, at its former size."""
    width, height = picture.size
    left, top = rng.uniform(0, share, 2)
    box = (left * width, top * height, (left + 1 - share) * width, (top + 1 - share) * height)
    return picture.resize(picture.size, Image.Resampling.BICUBIC, box=box)


COPIES = {
    "half": lambda picture, rng: resized(picture, 0.5),
    "larger": lambda picture, rng: resized(picture, 1.7),
    "jpeg": lambda picture, rng: recompressed(picture, 60),
    "cropped": lambda picture, rng: cropped(picture, rng.uniform(0.0, 0.05), rng),
}
"""Ways to copy a picture, given a random generator."""


def png(picture):
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()
