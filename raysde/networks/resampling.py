"""Halving and doubling of resolution as NCSN++ does it: finite impulse response (FIR) filters, or pixels alone.

The filter is the outer product of [1, 3, 3, 1] with itself (Zhang 2019, arXiv 1904.11486; Song et al. 2021 appendix H),
normalised and zero beyond the border: a depthwise convolution of stride 2, and its transpose. A learned convolution
that resamples is put before the filter when it doubles and behind it when it halves, with no border between the two
(Karras et al. 2020, arXiv 1912.04958, appendix B).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raysde.networks.layers import init_layer

TAPS = (1.0, 3.0, 3.0, 1.0)


class Fir(nn.Module):
    """Holds the filter [1, 1, 4, 4], which sums to ``gain``."""

    kernel: Tensor

    def __init__(self, gain: float) -> None:
        super().__init__()
        taps = torch.tensor(TAPS) / sum(TAPS)
        self.register_buffer("kernel", gain * torch.outer(taps, taps)[None, None], persistent=False)

    def depthwise(self, x: Tensor) -> Tensor:
        return self.kernel.to(x.dtype).expand(x.shape[1], -1, -1, -1)


class FirHalf(Fir):
    """Filters and takes every second pixel: [B, C, H, W] -> [B, C, H / 2, W / 2]."""

    def __init__(self) -> None:
        super().__init__(gain=1.0)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.depthwise(x), stride=2, padding=1, groups=x.shape[1])


class FirDouble(Fir):
    """Puts zeros between pixels and filters, four times as strongly: [B, C, H, W] -> [B, C, 2 H, 2 W]."""

    def __init__(self) -> None:
        super().__init__(gain=4.0)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self.depthwise(x), stride=2, padding=1, groups=x.shape[1])


def make_halving(fir: bool) -> nn.Module:
    """Half the resolution without weights: filtered, or averages of 2 x 2 pixels."""
    return FirHalf() if fir else nn.AvgPool2d(2)


def make_doubling(fir: bool) -> nn.Module:
    """Twice the resolution without weights: filtered, or each pixel four times."""
    return FirDouble() if fir else nn.Upsample(scale_factor=2.0, mode="nearest")


class FirConvHalf(Fir):
    """Filters, then a 3 x 3 convolution of stride 2: [B, inside, H, W] -> [B, outside, H / 2, W / 2]."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__(gain=1.0)
        self.conv = init_layer(nn.Conv2d(inside, outside, 3, stride=2))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.conv2d(x, self.depthwise(x), padding=2, groups=x.shape[1]))


class FirConvDouble(Fir):
    """A transposed 3 x 3 convolution of stride 2, then filters: [B, inside, H, W] -> [B, outside, 2 H, 2 W]."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__(gain=4.0)
        self.conv = init_layer(nn.ConvTranspose2d(inside, outside, 3, stride=2, bias=False))
        # behind the filter, whose zero border would eat into a constant
        self.bias = nn.Parameter(torch.zeros(outside))

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        return F.conv2d(h, self.depthwise(h), self.bias, padding=1, groups=h.shape[1])


class ConvHalf(nn.Module):
    """A 3 x 3 convolution of stride 2, padded below and on the right (Ho et al. 2020)."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.conv = init_layer(nn.Conv2d(inside, outside, 3, stride=2))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class ConvDouble(nn.Module):
    """Each pixel four times, then a 3 x 3 convolution (Ho et al. 2020)."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.conv = init_layer(nn.Conv2d(inside, outside, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def make_halving_conv(inside: int, outside: int, fir: bool) -> nn.Module:
    """Half the resolution with a learned 3 x 3 convolution."""
    return FirConvHalf(inside, outside) if fir else ConvHalf(inside, outside)


def make_doubling_conv(inside: int, outside: int, fir: bool) -> nn.Module:
    """Twice the resolution with a learned 3 x 3 convolution."""
    return FirConvDouble(inside, outside) if fir else ConvDouble(inside, outside)
