"""Grids of images taken apart again, whatever is written above their rows."""

import numpy as np
import torch
from PIL import Image


def locate_rows(picture: Image.Image, images: torch.Tensor, columns: int, gap: int = 1) -> list[np.ndarray]:
    """Find every image in its cell, and white around it; return the pixels above each row, [H, W, C].

    Args:
        images: uint8 [B, C, H, W] as they stand in the picture, enlarged.
    """
    found = np.asarray(picture)
    found = found.reshape(*found.shape[:2], -1)
    _, channels, height, width = images.shape
    above, place = [], 0
    for start in range(0, len(images), columns):
        band = np.full((height + 2 * gap, found.shape[1], channels), 255, np.uint8)
        for column, image in enumerate(images[start : start + columns]):
            left = gap + column * (width + gap)
            band[gap : gap + height, left : left + width] = image.permute(1, 2, 0).numpy()
        places = range(place, len(found) - len(band) + 1)
        top = next(top for top in places if np.array_equal(found[top : top + len(band)], band))
        above.append(found[place : top + gap])
        place = top + gap + height
    assert len(found) == place + gap
    assert found.shape[1] == columns * (width + gap) + gap
    return above


def enlarge(images: torch.Tensor, scale: int) -> torch.Tensor:
    return images.repeat_interleave(scale, dim=-2).repeat_interleave(scale, dim=-1)


def inked(pixels: np.ndarray, columns: int, width: int, gap: int = 1) -> list[bool]:
    """Return for each column whether there is dark text above it."""
    return [bool((pixels[:, gap + column * (width + gap) :][:, :width] < 100).any()) for column in range(columns)]
