"""Read image files and masks as tensors, and report changes to their pixels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from raysde.images.open import is_grey, read_picture
from raysde.images.remarks import Change

SAID: dict[Change, str] = {
    "profile": "its colour profile was converted to sRGB",
    "unusable": "its colour profile is damaged or does not fit the pixels, and was ignored",
    "transparent": "it is transparent in places and was laid on white",
    "frames": "it has several frames or pages, of which the first was taken",
    "ink": "it is CMYK without a colour profile, and was converted by the plain formula (1 - ink)(1 - black)",
    "black": "it has 16 bits a pixel and no value above 255, and became black; scale it to 0 to 65535",
}
"""Sentence about an image for each change that reading made to its pixels."""


def open_file(path: str) -> tuple[Tensor, frozenset[Change]]:
    """Return an image file as uint8 [C, H, W], C = 1 if its format stores grey, else 3, and the changes to its pixels.

    Raises:
        ValueError: naming the file, if it cannot be read as an image.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise ValueError(f"there is no image {path}") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    return decode_file(data, path)


def decode_file(data: bytes, name: str) -> tuple[Tensor, frozenset[Change]]:
    """Return the content of an image file as :func:`open_file`; ``name`` is the file's in messages.

    Raises:
        ValueError: naming the file, if it cannot be read as an image.
    """
    try:
        read = read_picture(data, 1 if data and is_grey(data) else 3)
    except ValueError as error:
        raise ValueError(f"{name} cannot be read as an image: {error}") from error
    array = np.array(read.picture)
    image = torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1).contiguous()
    return image, read.changes & set(SAID)


def open_mask(path: str, size: tuple[int, int]) -> Tensor:
    """Read a mask file of (height, width) ``size`` as bool [H, W], True where it is nearer to white than to black.

    Raises:
        ValueError: if the file is no image, has several frames, is partly transparent, has no pixel brighter than
            half grey though not all are black, or has another size.
    """
    return check_mask(*open_file(path), path, size)


def check_mask(image: Tensor, changes: frozenset[Change], path: str, size: tuple[int, int]) -> Tensor:
    """Return a mask, read by :func:`decode_file` from ``path``, as bool [H, W]; see :func:`open_mask`.

    Args:
        image: uint8 [C, H, W].
        size: (height, width) that the mask must have.

    Raises:
        ValueError: as :func:`open_mask`.
    """
    if "transparent" in changes:
        raise ValueError(
            f"the mask {path} is transparent in places, which marks pixels neither as kept nor as filled in; "
            "paint white where the image is kept and black where it is filled in, and save it without transparency"
        )
    if "frames" in changes:
        raise ValueError(f"the mask {path} has several frames or pages; save one of them as a file of its own")
    if image.shape[1:] != size:
        height, width = image.shape[1:]
        raise ValueError(
            f"the mask {path} is {height} x {width}, the images are {size[0]} x {size[1]} (height x width); resize it"
        )
    levels = image.float().mean(dim=0)
    if "black" in changes or 0 < levels.max() <= 127.5:
        raise ValueError(
            f"the mask {path} is dark everywhere and not black, so that nothing would be kept; "
            "scale it to black and white: 0 and 255 in an 8-bit file, 0 and 65535 in a 16-bit file"
        )
    return levels > 127.5


def stack_images(
    files: Sequence[tuple[str, Tensor]], channels: int, size: tuple[int, int], what: str = "this edit of the model"
) -> Tensor:
    """Stack named images to uint8 [B, C, H, W], (H, W) = ``size``; grey ones are repeated to a model's three channels.

    Args:
        what: what takes the images, for messages.

    Raises:
        ValueError: naming the first image of another size or number of channels.
    """
    files = [(path, image.expand(3, -1, -1) if (len(image), channels) == (1, 3) else image) for path, image in files]
    for path, image in files:
        if image.shape != (channels, *size):
            raise ValueError(
                f"{path} is {describe_shape(*image.shape)}, but {what} takes images of "
                f"{describe_shape(channels, *size)}; resize or convert it"
            )
    return torch.stack([image for _, image in files])


def describe_shape(channels: int, height: int, width: int) -> str:
    """Return an image's shape as text: height x width in pixels and its colours, by the number of channels."""
    return (
        f"{height} x {width} and {'grey' if channels == 1 else 'RGB' if channels == 3 else f'of {channels} channels'}"
    )
