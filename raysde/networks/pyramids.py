"""Progressive input and output of NCSN++: the image at each resolution of the downward and the upward path.

Sources: Song et al. 2021 appendix H; Karras et al. 2020 (arXiv 1912.04958) section 4 for skips and residuals.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raysde.networks.layers import group_norm, init_layer
from raysde.networks.resampling import make_doubling, make_doubling_conv, make_halving, make_halving_conv


class Head(nn.Module):
    """Normalised activations through a 3 x 3 convolution: [B, inside, H, W] -> [B, outside, H, W].

    ``scale`` multiplies the variance of the initial weights; 0 sets them to zero.
    """

    def __init__(self, inside: int, outside: int, scale: float) -> None:
        super().__init__()
        self.norm = group_norm(inside)
        self.conv = init_layer(nn.Conv2d(inside, outside, 3, padding=1), scale)

    def forward(self, h: Tensor) -> Tensor:
        return self.conv(F.silu(self.norm(h)))


class InputSkip(nn.Module):
    """A module that adds or concatenates the halved image to the features of ``width`` channels."""

    def __init__(self, image: int, width: int, fir: bool, combine: str) -> None:
        super().__init__()
        self.shrink, self.cat = make_halving(fir), combine == "cat"
        self.conv = init_layer(nn.Conv2d(image, width, 1))

    def forward(self, h: Tensor, pyramid: Tensor) -> tuple[Tensor, Tensor]:
        """Map h [B, width, H, W] and the image [B, C, 2 H, 2 W] to the joined features and the image [B, C, H, W]."""
        pyramid = self.shrink(pyramid)
        shown = self.conv(pyramid)
        return torch.cat([shown, h], dim=1) if self.cat else shown + h, pyramid


class InputResidual(nn.Module):
    """A module that adds a learned halving of the previous sum to the features and passes the new sum on.

    ``before`` and ``width`` are channels of the previous sum and of the features; ``rescale`` is the factor of the new
    sum.
    """

    def __init__(self, before: int, width: int, fir: bool, rescale: float) -> None:
        super().__init__()
        self.shrink, self.rescale = make_halving_conv(before, width, fir), rescale

    def forward(self, h: Tensor, pyramid: Tensor) -> tuple[Tensor, Tensor]:
        """Map h [B, width, H, W] and the sum [B, before, 2 H, 2 W] to the new sum [B, width, H, W], twice.

        The first is the features, the second the pyramid.
        """
        h = (self.shrink(pyramid) + h) * self.rescale
        return h, h


class OutputSkip(nn.Module):
    """A module that adds this level's image to the doubled image of the lower levels.

    ``width`` and ``image`` are channels of the features and of the image.
    """

    def __init__(self, width: int, image: int, fir: bool, lowest: bool) -> None:
        super().__init__()
        self.head = Head(width, image, scale=0.0)
        self.grow = None if lowest else make_doubling(fir)

    def forward(self, h: Tensor, pyramid: Tensor | None) -> tuple[Tensor, Tensor]:
        """Map h [B, width, H, W] and the image [B, C, H / 2, W / 2] to h itself and the image [B, C, H, W]."""
        if self.grow is None or pyramid is None:
            return h, self.head(h)
        return h, self.grow(pyramid) + self.head(h)


class OutputResidual(nn.Module):
    """A module that adds a learned doubling of the lower levels to the features and passes the new sum on.

    ``below`` and ``width`` are channels of the lower levels' sum, None at the lowest level, and of the features;
    ``rescale`` is the factor of the new sum.
    """

    def __init__(self, below: int | None, width: int, fir: bool, rescale: float) -> None:
        super().__init__()
        self.rescale = rescale
        self.head = Head(width, width, scale=1.0) if below is None else None
        self.grow = None if below is None else make_doubling_conv(below, width, fir)

    def forward(self, h: Tensor, pyramid: Tensor | None) -> tuple[Tensor, Tensor]:
        """Map h [B, width, H, W] and the sum [B, below, H / 2, W / 2] to the new sum [B, width, H, W], twice.

        The first is the features, the second the pyramid. The lowest level has no sum yet: it returns h and the start
        of the sum.
        """
        if self.head is not None:
            return h, self.head(h)
        assert self.grow is not None
        h = (self.grow(pyramid) + h) * self.rescale
        return h, h
