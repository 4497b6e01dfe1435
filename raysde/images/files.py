"""Image files as tensors, and masks, with what had to be changed on the way in."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from raysde.images.open import is_grey, read_picture
from raysde.images.remarks import Change

SAID: dict[Change, str] = {
    "profile": "its colour profile was converted to sRGB",
    "unusable": "its colour profile is damaged or does not fit the pixels, and was passed over",
    "transparent": "it is transparent in places and was laid on white",
    "frames": "it has several frames or pages, of which the first was taken",
    "ink": "it is CMYK without a colour profile, and was converted by the plain formula (1 - ink)(1 - black)",
    "black": "it has 16 bits a pixel and no value above 255, and became black; scale it to 0 to 65535",
}
"""What is said of an image that was changed on the way in."""


def open_file(path: str) -> tuple[Tensor, frozenset[Change]]:
    """Read an image file as uint8 [C, H, W], one channel if it is of a grey kind, and what was changed on the way.

    Raises:
        ValueError: naming the file, if it cannot be read as an image.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise ValueError(f"there is no image {path}") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        read = read_picture(data, 1 if data and is_grey(data) else 3)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error
    array = np.array(read.picture)
    image = torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1).contiguous()
    return image, read.changes & set(SAID)


def open_mask(path: str, size: tuple[int, int]) -> Tensor:
    """Read a mask: bool [H, W], True where the file is nearer to white than to black.

    Raises:
        ValueError: if it is no image, of several frames, transparent in places, dark without being black, or of
            another size, naming both.
    """
    image, changes = open_file(path)
    if "transparent" in changes:
        raise ValueError(
            f"the mask {path} is transparent in places, which says neither kept nor filled in; "
            "paint white where the image is kept and black where it is filled in, and save it without transparency"
        )
    if "frames" in changes:
        raise ValueError(f"the mask {path} has several frames or pages; save the one that is meant alone")
    if image.shape[1:] != size:
        height, width = image.shape[1:]
        raise ValueError(
            f"the mask {path} is {height} x {width}, the images are {size[0]} x {size[1]} (height x width)"
        )
    levels = image.float().mean(dim=0)
    if "black" in changes or 0 < levels.max() <= 127.5:
        raise ValueError(
            f"the mask {path} is dark everywhere and not black, so that nothing would be kept; "
            "scale it to black and white, 0 and 255 in a file of 8 bits and 0 and 65535 in one of 16"
        )
    return levels > 127.5
