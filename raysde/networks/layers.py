"""Building blocks of the U-Net: time embedding, residual block, self- and cross-attention.

Sources: Song et al. 2021 appendix H (DDPM++: BigGAN-style residual blocks that resample, sums divided by sqrt(2)),
Ho et al. 2020 (sinusoidal time embedding, last layers that start at zero).
"""

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SKIP_SCALE = 1.0 / math.sqrt(2.0)


def norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with 32 groups, or as many as leave four channels in a group."""
    return nn.GroupNorm(math.gcd(min(32, max(1, channels // 4)), channels), channels, eps=1e-6)


Module = TypeVar("Module", bound=nn.Module)


def zeroed(module: Module) -> Module:
    """Sets all parameters to zero, so that the branch that ends in ``module`` starts as nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class TimeEmbedding(nn.Module):
    """Sinusoidal features of 999 t through two layers: [B] -> [B, out] (Song et al. feed 999 t to VP networks)."""

    frequencies: Tensor

    def __init__(self, features: int, out: int) -> None:
        super().__init__()
        half = features // 2
        exponents = torch.arange(half, dtype=torch.float32) / max(1, half - 1)
        self.register_buffer("frequencies", torch.exp(-math.log(10_000.0) * exponents), persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * half, out), nn.SiLU(), nn.Linear(out, out))

    def forward(self, t: Tensor) -> Tensor:
        # autocast leaves these in float32: 999 t has to keep its last digits
        angles = 999.0 * t.to(torch.float32)[:, None] * self.frequencies
        return self.layers(torch.cat([angles.sin(), angles.cos()], dim=1))


class ResidualBlock(nn.Module):
    """(skip(x) + h(x, embedding)) / sqrt(2), optionally halving or doubling the resolution on both branches."""

    def __init__(self, inside: int, outside: int, embedding: int, *, dropout: float, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.norm1, self.norm2 = norm(inside), norm(outside)
        self.conv1 = nn.Conv2d(inside, outside, 3, padding=1)
        self.conv2 = zeroed(nn.Conv2d(outside, outside, 3, padding=1))
        self.embed = nn.Linear(embedding, outside)
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Conv2d(inside, outside, 1) if inside != outside else nn.Identity()

    def resample(self, x: Tensor) -> Tensor:
        if self.scale < 1.0:
            return F.avg_pool2d(x, 2)
        if self.scale > 1.0:
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        return x

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(self.resample(F.silu(self.norm1(x))))
        h = h + self.embed(embedding)[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return (self.skip(self.resample(x)) + h) * SKIP_SCALE


class Attention(nn.Module):
    """(x + attention(x)) / sqrt(2) over the pixels of x, or from its pixels to the tokens of a context.

    Args:
        channels: of x, a multiple of ``head``.
        head: channels of one attention head.
        context: width of the context tokens; None for self-attention.
    """

    def __init__(self, channels: int, *, head: int, context: int | None = None) -> None:
        super().__init__()
        if channels % head:
            raise ValueError(f"attention needs channels divisible by network.head_channels={head}, got {channels}")
        self.heads = channels // head
        self.norm = norm(channels)
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels if context is None else context, 2 * channels)
        self.out = zeroed(nn.Linear(channels, channels))

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """x [B, C, H, W]; context [B, L, D]; mask [B, L], True where a token is real."""
        pixels = self.norm(x).flatten(2).transpose(1, 2)
        key, value = self.key_value(pixels if context is None else context).chunk(2, dim=-1)
        attend = None if mask is None else mask[:, None, None, :]
        h = F.scaled_dot_product_attention(
            self.split(self.query(pixels)), self.split(key), self.split(value), attn_mask=attend
        )
        h = self.out(h.transpose(1, 2).flatten(2)).transpose(1, 2).unflatten(2, x.shape[2:])
        return (x + h) * SKIP_SCALE
