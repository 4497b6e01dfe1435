"""Images as conditions of the score network, as channels that are concatenated to its noisy input.

The planes of a condition are channels in the data range, of the size of the images. In training they are made from the
clean images or from a second image of each row, when a model is used from the images that are given. A dropped
condition has planes of zeros.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from raysde.sde.setting import setting

DROPPED = "share of images whose image condition is dropped by itself; train.condition_dropout drops all conditions"


def _check_dropout(dropout: float) -> None:
    if not 0.0 <= dropout <= 1.0:
        raise ValueError(f"dropout must lie in [0, 1], got {dropout}")


@dataclass(frozen=True, kw_only=True)
class UpscaleCondition:
    """A smaller copy of the image: super-resolution (Saharia et al. 2021, arXiv 2104.07636).

    The copy has the means of blocks of factor x factor pixels and is enlarged by bicubic interpolation. Noise of a
    random level is added to it in training, and the level is a condition too (Ho et al. 2022, arXiv 2106.15282, section
    4.2, Gaussian conditioning augmentation).

    Raises:
        ValueError: naming a setting that is out of range.
    """

    kind: Literal["upscale"] = "upscale"
    factor: int = setting(2, "side of the blocks of pixels whose means are the smaller copy")
    noise: float = setting(
        0.1,
        "largest standard deviation of the noise in the smaller copy, in units of the data range; each image draws its "
        "own from 0 to this",
    )
    dropout: float = setting(0.0, DROPPED)

    def __post_init__(self) -> None:
        _check_dropout(self.dropout)
        if self.factor < 2:
            raise ValueError(f"factor must be at least 2, got {self.factor}")
        if not 0.0 <= self.noise < float("inf"):
            raise ValueError(f"noise must be a number of at least 0, got {self.noise}")

    def check_image(self, image: tuple[int, int, int]) -> None:
        """Raise ValueError unless the blocks tile images of shape (channels, height, width)."""
        if image[1] % self.factor or image[2] % self.factor:
            raise ValueError(
                f"image_condition.factor={self.factor} does not divide the image size {image[1:]}; choose a divisor of "
                "both"
            )

    def planes(self, channels: int, fold: int = 1) -> int:
        """Return the number of planes for images of ``channels``: the copy, its noise level, and a plane of ones."""
        return channels + 2

    def draw(self, x0: Tensor, rng: torch.Generator) -> Tensor:
        """Return the planes [B, C + 2, H, W] of clean images x0 [B, C, H, W], with noise of random levels."""
        level = self.noise * torch.rand(len(x0), generator=rng, device=rng.device).to(x0.device)
        small = F.avg_pool2d(x0, self.factor)
        eps = torch.randn(small.shape, generator=rng, device=rng.device).to(x0.device)
        return self.given(small + level[:, None, None, None] * eps, level)

    def given(self, small: Tensor, level: Tensor) -> Tensor:
        """Return the planes [B, C + 2, H, W] of small images [B, C, H / factor, W / factor] in the data range.

        Args:
            level: standard deviation of the noise in them, [B].
        """
        large = F.interpolate(small, scale_factor=float(self.factor), mode="bicubic", align_corners=False)
        relative = (level / self.noise if self.noise else torch.zeros_like(level))[:, None, None, None]
        return torch.cat([large, relative.expand_as(large[:, :1]), torch.ones_like(large[:, :1])], dim=1)


@dataclass(frozen=True, kw_only=True)
class InpaintCondition:
    """The image with a hole, and the mask of its known pixels: inpainting (Saharia et al. 2022, arXiv 2111.05826).

    In training the hole is a random rectangle.

    Raises:
        ValueError: naming a setting that is out of range.
    """

    kind: Literal["inpaint"] = "inpaint"
    hole: tuple[float, float] = setting(
        (0.25, 0.75), "[smallest, largest] side of the hole as a share of the image's, drawn for height and width"
    )
    dropout: float = setting(0.0, DROPPED)

    def __post_init__(self) -> None:
        _check_dropout(self.dropout)
        if not 0.0 < self.hole[0] <= self.hole[1] <= 1.0:
            raise ValueError(f"hole must be [smallest, largest] with 0 < smallest <= largest <= 1, got {self.hole}")

    def check_image(self, image: tuple[int, int, int]) -> None:
        """Accept images of any shape (channels, height, width)."""

    def planes(self, channels: int, fold: int = 1) -> int:
        """Return the number of planes for images of ``channels``: the known pixels, and their mask.

        Args:
            fold: pixels on a side for each pixel of the network's input, of no use here.
        """
        return channels + 1

    def draw(self, x0: Tensor, rng: torch.Generator) -> Tensor:
        """Return the planes [B, C + 1, H, W] of clean images x0 [B, C, H, W], each with a hole of its own."""
        u = torch.rand(len(x0), 4, generator=rng, device=rng.device).to(x0.device)
        inside = [
            self._in_hole(u[:, axis], u[:, axis + 2], side) for axis, side in enumerate((x0.shape[2], x0.shape[3]))
        ]
        return self.given(x0, ~(inside[0][:, None, :, None] & inside[1][:, None, None, :]))

    def _in_hole(self, size: Tensor, place: Tensor, side: int) -> Tensor:
        """Return True for the positions of a side that a hole covers, bool [B, side], from uniform numbers [B]."""
        low, high = self.hole
        length = ((low + (high - low) * size) * side).round().clamp(1, side)
        start = (place * (side - length + 1)).floor()
        at = torch.arange(side, device=size.device)
        return (at >= start[:, None]) & (at < (start + length)[:, None])

    def given(self, images: Tensor, known: Tensor) -> Tensor:
        """Return the planes [B, C + 1, H, W] of images [B, C, H, W] in the data range.

        Args:
            known: True where pixels are known, bool [B, 1, H, W].
        """
        return torch.cat([torch.where(known, images, 0.0), known.to(images.dtype)], dim=1)


@dataclass(frozen=True, kw_only=True)
class ColumnCondition:
    """The second image of each row of the data set, such as a depth map, an edge map or a segmentation map.

    Its channels are concatenated to the network's input as they are, as in image-to-image diffusion (Saharia et al.
    2021, arXiv 2111.05826). For a latent model, the pixels of each block that a latent stands for become channels
    (``pixel_unshuffle``, Shi et al. 2016, arXiv 1609.05158), so that nothing of them is lost.

    Raises:
        ValueError: naming a setting that is out of range.
    """

    kind: Literal["column"] = "column"
    name: str | None = setting(None, "name of the second image, such as depth; null for the data set's")
    channels: int | None = setting(None, "1 (grey) or 3 (RGB) channels of the second image; null for the data set's")
    dropout: float = setting(0.0, DROPPED)

    def __post_init__(self) -> None:
        _check_dropout(self.dropout)
        if self.channels not in (None, 1, 3):
            raise ValueError(f"channels must be 1, 3 or null, got {self.channels}")

    def check_image(self, image: tuple[int, int, int]) -> None:
        """Accept images of any shape (channels, height, width)."""

    def planes(self, channels: int, fold: int = 1) -> int:
        """Return the number of planes: the second image's channels, and a plane of ones.

        Args:
            channels: channels of the images, which do not matter.
            fold: side of the block of pixels that a latent stands for; 1 for a model of pixels.
        """
        assert self.channels is not None, "a model's description has the number of channels"
        return self.channels * fold**2 + 1

    def given(self, images: Tensor, size: Sequence[int]) -> Tensor:
        """Return the planes [B, E, H, W] of second images [B, C, H * fold, W * fold] in the data range.

        Args:
            size: (H, W) of the model's data.
        """
        fold = images.shape[2] // size[0]
        assert images.shape[2:] == (size[0] * fold, size[1] * fold)
        planes = F.pixel_unshuffle(images, fold)
        return torch.cat([planes, torch.ones_like(planes[:, :1])], dim=1)


ImageCondition = UpscaleCondition | InpaintCondition | ColumnCondition


def draw_planes(condition: ImageCondition, x0: Tensor, rng: torch.Generator, second: Tensor | None = None) -> Tensor:
    """Return the planes [B, E, H, W] of clean images x0 [B, C, H, W] in training; those of dropped rows are zeros.

    Args:
        rng: random stream of holes, noise and dropout.
        second: second images in the data range, for a condition that takes them.
    """
    kept = torch.rand(len(x0), generator=rng, device=rng.device).to(x0.device) >= condition.dropout
    if isinstance(condition, ColumnCondition):
        assert second is not None, "a run with second images reads them"
        planes = condition.given(second, x0.shape[2:])
    else:
        planes = condition.draw(x0, rng)
    return torch.where(kept[:, None, None, None], planes, 0.0)


def planes_of(condition: ImageCondition | None, image: tuple[int, int, int], fold: int = 1) -> int:
    """Return the number of planes of a condition for images of shape (channels, height, width), 0 for None.

    Args:
        fold: side of the block of pixels that a latent stands for; 1 for a model of pixels.
    """
    return 0 if condition is None else condition.planes(image[0], fold)
