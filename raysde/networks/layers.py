"""Building blocks that the networks share: time features, residual block, self- and cross-attention, checkpointing.

Sources: Song et al. 2021 appendix H (BigGAN-style residual blocks that resample, sums divided by sqrt(2), random
Fourier features of log sigma); Ho et al. 2020 (sinusoidal time features, initial weights, last layers that start at
zero); Chen et al. 2016, arXiv 1604.06174 (activations recomputed in the backward pass).
"""

import math
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

SKIP_SCALE = 1.0 / math.sqrt(2.0)
FEW, FEW_HALF = 128, 512
"""Largest numbers of tokens for explicit attention on a CPU, in float32 and in half precision.

torch's tiled kernel is made for many tokens. Forward and backward in bfloat16 took 5 ms instead of 29 for 64 tokens (64
heads of 64 in all), 37 instead of 88 for 256, the same for 1,024; in float32 118 instead of 83 for 256.
"""


def group_norm(channels: int) -> nn.GroupNorm:
    """Return a GroupNorm with at most 32 groups of at least four channels."""
    return nn.GroupNorm(math.gcd(min(32, max(1, channels // 4)), channels), channels, eps=1e-6)


Module = TypeVar("Module", bound=nn.Module)


def zero_parameters(module: Module) -> Module:
    """Set all parameters to zero, so that a branch that ends in ``module`` starts with zero output."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


Weighted = TypeVar("Weighted", bound=nn.Linear | nn.Conv2d | nn.ConvTranspose2d)


def init_layer(layer: Weighted, scale: float = 1.0) -> Weighted:
    """Set uniform weights of variance ``2 scale / (fan in + fan out)`` and zero biases (Ho et al. 2020, code)."""
    nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(scale))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def run_block(block: nn.Module, *inputs: Tensor | None) -> Any:
    """Return ``block(*inputs)``, whose shapes the block defines."""
    return block(*inputs)


def recompute_block(block: nn.Module, *inputs: Tensor | None) -> Any:
    """Return ``block(*inputs)``, whose shapes the block defines; the backward pass recomputes the activations."""
    if not torch.is_grad_enabled():
        return block(*inputs)
    return checkpoint(block, *inputs, use_reentrant=False)


def to_full_precision(times: Tensor, frequencies: Tensor) -> Tensor:
    """Return times [B] in float32, or in float64 for a float64 network, since autocast would round 999 t."""
    return times.to(torch.promote_types(torch.float32, frequencies.dtype))


class Positional(nn.Module):
    """Sines, then cosines, of a network's time input at ``features / 2`` frequencies: [B] -> [B, features]."""

    frequencies: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        half = features // 2
        self.width = 2 * half
        # on the meta device, where recipes are checked, arange would import torch._dynamo and sympy for a second
        exponents = torch.arange(half, dtype=torch.float32, device="cpu") / max(1, half - 1)
        frequencies = torch.exp(-math.log(10_000.0) * exponents).to(torch.get_default_device())
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, times: Tensor) -> Tensor:
        angles = to_full_precision(times, self.frequencies)[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class Fourier(nn.Module):
    """Sines, then cosines, of a network's time input at fixed random frequencies: [B] -> [B, 2 features].

    Frequencies are normal with standard deviation ``scale``, in cycles per unit (Tancik et al. 2020, arXiv 2006.10739).
    """

    frequencies: Tensor

    def __init__(self, features: int, scale: float) -> None:
        super().__init__()
        self.width = 2 * features
        self.register_buffer("frequencies", scale * torch.randn(features))

    def forward(self, times: Tensor) -> Tensor:
        angles = 2.0 * math.pi * to_full_precision(times, self.frequencies)[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class TimeEmbedding(nn.Module):
    """A two-layer MLP on sinusoidal features of 999 t: [B] -> [B, out] (Song et al. feed 999 t to VP networks)."""

    def __init__(self, features: int, out: int) -> None:
        super().__init__()
        self.features = Positional(features)
        self.layers = nn.Sequential(nn.Linear(self.features.width, out), nn.SiLU(), nn.Linear(out, out))

    def forward(self, t: Tensor) -> Tensor:
        return self.layers(self.features(999.0 * to_full_precision(t, self.features.frequencies)))


class ResidualBlock(nn.Module):
    """The block (skip(x) + h(x, embedding)) / sqrt(2), after halving the resolution or before doubling it.

    x is [B, inside, H, W], embedding [B, embedding], the result [B, outside, scale H, scale W]. All convolutions run at
    the lower resolution. Song et al.'s block, in :mod:`raysde.networks.ncsnpp`, doubles before its first convolution,
    which costs four times as much there.

    Args:
        inside, outside, embedding: channels of x and of the result, and width of the embedding.
        dropout: dropout probability, in [0, 1).
        scale: 0.5 to halve the resolution, 2 to double it, 1 to keep it.
    """

    def __init__(self, inside: int, outside: int, embedding: int, *, dropout: float, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.norm1, self.norm2 = group_norm(inside), group_norm(outside)
        self.conv1 = nn.Conv2d(inside, outside, 3, padding=1)
        self.conv2 = zero_parameters(nn.Conv2d(outside, outside, 3, padding=1))
        self.embed = nn.Linear(embedding, outside)
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Conv2d(inside, outside, 1) if inside != outside else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = F.silu(self.norm1(x))
        if self.scale < 1.0:
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        h = self.conv1(h) + self.embed(embedding)[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        x = (self.skip(x) + h) * SKIP_SCALE
        return F.interpolate(x, scale_factor=2.0, mode="nearest") if self.scale > 1.0 else x


def attend_in_heads(query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Return softmax(q k / sqrt(d)) v per head: query [B, N, D], key and value [B, L, D], mask [B, L] -> [B, N, D].

    ``heads`` divides D. The mask is True where a token is real.
    """
    query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value))
    chosen = None if mask is None else mask[:, None, None, :]
    limit = FEW if query.dtype == torch.float32 else FEW_HALF
    few = query.device.type == "cpu" and max(query.shape[2], key.shape[2]) <= limit
    attend = attend_step_by_step if few else F.scaled_dot_product_attention
    return attend(query, key, value, attn_mask=chosen).transpose(1, 2).flatten(2)


def attend_step_by_step(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """Compute ``scaled_dot_product_attention`` by explicit products; torch's softmax sums in float32 on a CPU.

    Args:
        query: [B, heads, N, d]; the result has this shape.
        key, value: [B, heads, L, d] each.
        attn_mask: bool, broadcasts to [B, heads, N, L], True where a query attends.
    """
    logits = (query / math.sqrt(query.shape[-1])) @ key.transpose(-1, -2)
    if attn_mask is not None:
        logits = logits.masked_fill(~attn_mask, -math.inf)
    return logits.softmax(dim=-1) @ value


class Attention(nn.Module):
    """Attention (x + attention(x)) ``rescale`` among the pixels of x, or from its pixels to context tokens.

    Args:
        channels: channels of x, a multiple of ``head``.
        head: channels of one attention head.
        context: width of the context tokens; None for self-attention.
        rescale: factor of the sum; 1 / sqrt(2) preserves its variance.

    Raises:
        ValueError: if ``head`` does not divide ``channels``.
    """

    def __init__(self, channels: int, *, head: int, context: int | None = None, rescale: float = SKIP_SCALE) -> None:
        super().__init__()
        if channels % head:
            raise ValueError(f"attention needs channels divisible by network.head_channels={head}, got {channels}")
        self.heads, self.rescale = channels // head, rescale
        self.norm = group_norm(channels)
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels if context is None else context, 2 * channels)
        self.out = zero_parameters(nn.Linear(channels, channels))

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Map x [B, C, H, W] to the same shape, with context [B, L, D] and mask [B, L], True where a token is real."""
        pixels = self.norm(x).flatten(2).transpose(1, 2)
        key, value = self.key_value(pixels if context is None else context).chunk(2, dim=-1)
        h = self.out(attend_in_heads(self.query(pixels), key, value, self.heads, mask))
        return (x + h.transpose(1, 2).unflatten(2, x.shape[2:])) * self.rescale


class Stage(nn.Module):
    """A residual block, followed by self-attention and cross-attention at levels that have them.

    It maps x [B, inside, H, W], the embedding [B, D] and, for cross-attention, context [B, L, C] with mask [B, L] (True
    where a token is real) to [B, outside, H, W].
    """

    def __init__(self, residual: nn.Module, attention: Attention | None, cross: Attention | None) -> None:
        super().__init__()
        self.residual, self.attention, self.cross = residual, attention, cross

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor | None, mask: Tensor | None) -> Tensor:
        x = self.residual(x, embedding)
        if self.attention is not None:
            x = self.attention(x)
        if self.cross is not None and context is not None:
            x = self.cross(x, context, mask)
        return x
