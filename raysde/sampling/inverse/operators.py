"""What is known of an image, as a linear map H with H H^T = scale times the identity: pixels, greys, block means.

Then H^T / scale spreads a measurement over the image, and H^T H / scale projects onto what the measurement sees, so
that an image splits into a known and an unknown part (Song et al. 2021, appendix I).
"""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Projection(Protocol):
    """A linear map H of images [B, ...] with H H^T = ``scale`` on the measurements."""

    @property
    def scale(self) -> float: ...

    def measure(self, x: Tensor) -> Tensor:
        """H x, with the number of dimensions of x."""
        ...

    def transpose(self, y: Tensor) -> Tensor:
        """H^T y, of the shape of an image."""
        ...


@dataclass(frozen=True, eq=False)
class Mask:
    """Inpainting: some values are known. A measurement has the image's shape and is zero where nothing is known.

    Attributes:
        known: bool, True where known, of a shape that broadcasts against images: [H, W], [B, 1, H, W] or the images'.

    Raises:
        ValueError: if ``known`` is not bool.
    """

    known: Tensor

    def __post_init__(self) -> None:
        if self.known.dtype != torch.bool:
            raise ValueError(f"a mask is bool, True where the image is known, got {self.known.dtype}")

    @property
    def scale(self) -> float:
        return 1.0

    def measure(self, x: Tensor) -> Tensor:
        return torch.where(self.known, x, torch.zeros_like(x))

    def transpose(self, y: Tensor) -> Tensor:
        return self.measure(y)


@dataclass(frozen=True)
class Grey:
    """Colorisation: the mean over channels is known, [B, 1, H, W].

    It is sqrt(channels) times the first coordinate of an orthonormal basis of the channels; the others are unknown.
    """

    channels: int

    @property
    def scale(self) -> float:
        return 1.0 / self.channels

    def measure(self, x: Tensor) -> Tensor:
        return x.mean(dim=1, keepdim=True)

    def transpose(self, y: Tensor) -> Tensor:
        return (y / self.channels).expand(-1, self.channels, *y.shape[2:])


@dataclass(frozen=True)
class AveragePool:
    """Super-resolution: the means of blocks of factor x factor pixels are known, [B, C, H / factor, W / factor].

    Raises:
        ValueError: if ``factor`` is below 1.
    """

    factor: int

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise ValueError(f"factor must be at least 1, got {self.factor}")

    @property
    def scale(self) -> float:
        return 1.0 / self.factor**2

    def measure(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.factor)

    def transpose(self, y: Tensor) -> Tensor:
        wide = (y * self.scale).repeat_interleave(self.factor, dim=-1)
        return wide.repeat_interleave(self.factor, dim=-2)


@dataclass(frozen=True)
class Chain:
    """``then`` of what ``first`` measures: block means of a grey image, or some pixels of a small one.

    Raises:
        ValueError: if ``first`` is a mask, whose H H^T is no multiple of the identity on all images.
    """

    first: Projection
    then: Projection

    def __post_init__(self) -> None:
        if isinstance(self.first, Mask):
            raise ValueError("a mask can only come last in a chain of projections")

    @property
    def scale(self) -> float:
        return self.first.scale * self.then.scale

    def measure(self, x: Tensor) -> Tensor:
        return self.then.measure(self.first.measure(x))

    def transpose(self, y: Tensor) -> Tensor:
        return self.first.transpose(self.then.transpose(y))


def replace_measurement(x: Tensor, y: Tensor, projection: Projection) -> Tensor:
    """x with its measurement replaced by y.

    In this order of operations a mask's known values become those of y to the last bit, and the others stay.
    """
    rest = x - projection.transpose(projection.measure(x)) / projection.scale
    return rest + projection.transpose(y) / projection.scale
