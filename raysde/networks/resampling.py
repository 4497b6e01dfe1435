"""Halving and doubling of resolution in NCSN++, with finite impulse response (FIR) filters or without.

The filter is the outer product of [1, 3, 3, 1] with itself (Zhang 2019, arXiv 1904.11486; Song et al. 2021 appendix H),
normalised and zero beyond the border: a depthwise convolution of stride 2, and its transpose. A learned convolution
that resamples comes before the filter when it doubles and after it when it halves, with no border between the two
(Karras et al. 2020, arXiv 1912.04958, appendix B).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raysde.networks.layers import init_layer

TAPS = (1.0, 3.0, 3.0, 1.0)


class Fir(nn.Module):
    """The base class of filters, which holds the kernel [1, 1, 4, 4] with sum ``gain``.

    ``depthwise`` repeats it to [C, 1, 4, 4] for the channels of x [B, C, H, W].
    """

    kernel: Tensor

    def __init__(self, gain: float) -> None:
        super().__init__()
        taps = torch.tensor(TAPS) / sum(TAPS)
        self.register_buffer("kernel", gain * torch.outer(taps, taps)[None, None], persistent=False)

    def depthwise(self, x: Tensor) -> Tensor:
        return self.kernel.to(x.dtype).expand(x.shape[1], -1, -1, -1)


class FirHalf(Fir):
    """Filtering and subsampling of every second pixel: [B, C, H, W] -> [B, C, H / 2, W / 2]."""

    def __init__(self) -> None:
        super().__init__(gain=1.0)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.depthwise(x), stride=2, padding=1, groups=x.shape[1])


class FirDouble(Fir):
    """Zeros between pixels, filtered with a gain of four: [B, C, H, W] -> [B, C, 2 H, 2 W]."""

    def __init__(self) -> None:
        super().__init__(gain=4.0)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self.depthwise(x), stride=2, padding=1, groups=x.shape[1])


def make_halving(fir: bool) -> nn.Module:
    """Return a layer without weights that halves the resolution, by filter or by the mean of 2 x 2 pixels."""
    return FirHalf() if fir else nn.AvgPool2d(2)


def make_doubling(fir: bool) -> nn.Module:
    """Return a layer without weights that doubles the resolution, by filter or by repeating pixels."""
    return FirDouble() if fir else nn.Upsample(scale_factor=2.0, mode="nearest")


class FirConvHalf(Fir):
    """A filter and a 3 x 3 convolution of stride 2: [B, inside, H, W] -> [B, outside, H / 2, W / 2]."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__(gain=1.0)
        self.conv = init_layer(nn.Conv2d(inside, outside, 3, stride=2))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.conv2d(x, self.depthwise(x), padding=2, groups=x.shape[1]))


class FirConvDouble(Fir):
    """A transposed 3 x 3 convolution of stride 2 and a filter: [B, inside, H, W] -> [B, outside, 2 H, 2 W]."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__(gain=4.0)
        self.conv = init_layer(nn.ConvTranspose2d(inside, outside, 3, stride=2, bias=False))
        # added after the filter, whose zero border would attenuate a constant
        self.bias = nn.Parameter(torch.zeros(outside))

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        return F.conv2d(h, self.depthwise(h), self.bias, padding=1, groups=h.shape[1])


class ConvHalf(nn.Module):
    """A 3 x 3 convolution of stride 2, padded below and right (Ho et al. 2020).

    It maps [B, inside, H, W] to [B, outside, H / 2, W / 2].
    """

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.conv = init_layer(nn.Conv2d(inside, outside, 3, stride=2))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class ConvDouble(nn.Module):
    """Repeated pixels and a 3 x 3 convolution (Ho et al. 2020): [B, inside, H, W] -> [B, outside, 2 H, 2 W]."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.conv = init_layer(nn.Conv2d(inside, outside, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def make_halving_conv(inside: int, outside: int, fir: bool) -> nn.Module:
    """Return a learned 3 x 3 convolution that halves height and width.

    Args:
        inside, outside: number of channels that go in and come out.
        fir: True to combine it with a FIR filter against aliasing.
    """
    return FirConvHalf(inside, outside) if fir else ConvHalf(inside, outside)


def make_doubling_conv(inside: int, outside: int, fir: bool) -> nn.Module:
    """Return a learned 3 x 3 convolution that doubles height and width.

    Args:
        inside, outside: number of channels that go in and come out.
        fir: True to combine it with a FIR filter against aliasing.
    """
    return FirConvDouble(inside, outside) if fir else ConvDouble(inside, outside)
