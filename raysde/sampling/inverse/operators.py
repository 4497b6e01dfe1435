"""Linear measurements H of an image with H H^T = scale times the identity: pixels, greys, block means.

H^T / scale maps a measurement back to an image, and H^T H / scale projects onto the measured part, so an image splits
into a known and an unknown part (Song et al. 2021, appendix I).
"""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Projection(Protocol):
    """A linear map H of images [B, C, H, W] with H H^T = ``scale`` times the identity on measurements."""

    @property
    def scale(self) -> float: ...

    def measure(self, x: Tensor) -> Tensor:
        """Return the measurement H x of images x [B, C, H, W], with as many dimensions as x."""
        ...

    def transpose(self, y: Tensor) -> Tensor:
        """Return H^T y for a measurement y, of the shape [B, C, H, W] of images."""
        ...


@dataclass(frozen=True, eq=False)
class Mask:
    """Inpainting: some values are known. A measurement has the image's shape [B, C, H, W] and is zero elsewhere.

    Attributes:
        known: bool, True where known, broadcast against images: [H, W], [B, 1, H, W] or the images' own shape.

    Raises:
        ValueError: if ``known`` is not bool.
    """

    known: Tensor

    def __post_init__(self) -> None:
        if self.known.dtype != torch.bool:
            raise ValueError(f"a mask must be bool, True where the image is known, got {self.known.dtype}")

    @property
    def scale(self) -> float:
        return 1.0

    def measure(self, x: Tensor) -> Tensor:
        return torch.where(self.known, x, torch.zeros_like(x))

    def transpose(self, y: Tensor) -> Tensor:
        return self.measure(y)


@dataclass(frozen=True)
class Grey:
    """Colorisation: the mean over the channels of images [B, C, H, W] is known, [B, 1, H, W].

    The mean is 1 / sqrt(channels) times one coordinate of an orthonormal basis; the others are unknown.
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

    ``factor`` divides height and width of the images [B, C, H, W].

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
    """Two measurements, ``then`` after ``first``: block means of a grey image, or pixels of a small one.

    ``measure`` maps images [B, C, H, W] to the shape of ``then``'s measurements, ``transpose`` maps those back.

    Raises:
        ValueError: if ``first`` is a mask, since the composition's H H^T is then no multiple of the identity.
    """

    first: Projection
    then: Projection

    def __post_init__(self) -> None:
        if isinstance(self.first, Mask):
            raise ValueError("a mask can only come last in a chain of projections; give it as then")

    @property
    def scale(self) -> float:
        return self.first.scale * self.then.scale

    def measure(self, x: Tensor) -> Tensor:
        return self.then.measure(self.first.measure(x))

    def transpose(self, y: Tensor) -> Tensor:
        return self.first.transpose(self.then.transpose(y))


def replace_measurement(x: Tensor, y: Tensor, projection: Projection) -> Tensor:
    """Return x [B, C, H, W] with its measurement H x replaced by y.

    This order of operations sets a mask's known values to y bit for bit and leaves the others unchanged.

    Args:
        y: a measurement, of the shape that ``projection.measure`` returns.
    """
    rest = x - projection.transpose(projection.measure(x)) / projection.scale
    return rest + projection.transpose(y) / projection.scale
