"""The diffusion transformer DiT of Peebles and Xie 2023 (arXiv 2212.09748), with captions by cross-attention.

The time and the pooled condition modulate each block (adaLN-Zero). Cross-attention to captions stands between
self-attention and the MLP, as in PixArt-alpha (Chen et al. 2024, arXiv 2310.00426, section 2.3).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raysde.networks.checks import check_at_least_one, check_multiple, check_patch
from raysde.networks.layers import (
    Positional,
    attend_in_heads,
    init_layer,
    recompute_block,
    run_block,
    zero_parameters,
)
from raysde.networks.protocol import Image
from raysde.sde.setting import setting

TIME_FEATURES = 256
EXPANSION = 4
"""Width of a block's MLP as a multiple of the token width."""


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """The diffusion transformer DiT of Peebles and Xie 2023; network.preset names the published sizes.

    Raises:
        ValueError: if a number is below 1, or ``channels`` is no multiple of ``heads`` and of 4.
    """

    kind: Literal["dit"] = "dit"
    channels: int = setting(384, "channels of a token, a multiple of 4")
    blocks: int = setting(12, "transformer blocks")
    heads: int = setting(6, "attention heads, a divisor of channels")
    patch: int = setting(2, "side of a token's patch in pixels, a divisor of the image's height and width")
    cross_attention: bool = setting(
        True, "let each block attend to the caption's tokens, in addition to modulation by their mean"
    )
    checkpointing: bool = setting(
        False,
        "recompute each block's activations in the backward pass: less memory, about a third more time, and the same "
        "gradients",
    )

    time_input: ClassVar[Literal["999t"]] = "999t"

    def __post_init__(self) -> None:
        check_at_least_one({"channels": self.channels, "blocks": self.blocks, "heads": self.heads, "patch": self.patch})
        if self.channels % self.heads:
            raise ValueError(f"heads must divide channels={self.channels}, got {self.heads}")
        if self.channels % 4:
            raise ValueError(f"channels must be a multiple of 4: sines and cosines of two axes, got {self.channels}")

    def build(self, image: Image, condition: int | None, context: int | None = None) -> "DiT":
        return DiT(self, image, condition, context if self.cross_attention else None)

    def check_size(self, height: int, width: int) -> None:
        check_multiple((height, width), self.patch, "network.patch")


def position_embedding(rows: int, columns: int, channels: int, device: torch.device) -> Tensor:
    """Return sines and cosines of each token's column, then of its row: [rows * columns, channels], row by row."""
    quarter = channels // 4
    frequencies = 10_000.0 ** -(torch.arange(quarter, device=device, dtype=torch.float32) / quarter)
    axes = [torch.arange(count, device=device, dtype=torch.float32)[:, None] * frequencies for count in (columns, rows)]
    column, row = (torch.cat([angles.sin(), angles.cos()], dim=1) for angles in axes)
    return torch.cat([column.repeat(rows, 1), row.repeat_interleave(columns, dim=0)], dim=1)


def init_embedding_layer(inside: int, outside: int) -> nn.Linear:
    """Return a linear layer from ``inside`` to ``outside`` channels.

    Weights are drawn from N(0, 0.02^2), biases are zero (Peebles and Xie, code).
    """
    layer = zero_parameters(nn.Linear(inside, outside))
    nn.init.normal_(layer.weight, std=0.02)
    return layer


class SelfAttention(nn.Module):
    """Multi-head self-attention over tokens: [B, N, channels] -> [B, N, channels]; ``heads`` divides ``channels``."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = init_layer(nn.Linear(channels, 3 * channels))
        self.out = init_layer(nn.Linear(channels, channels))

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.query_key_value(tokens).chunk(3, dim=-1)
        return self.out(attend_in_heads(query, key, value, self.heads))


class CrossAttention(nn.Module):
    """Multi-head attention of tokens [B, N, channels] to caption tokens [B, L, context]: [B, N, channels].

    The mask [B, L] is True where a caption token is real. The initial output is zero.
    """

    def __init__(self, channels: int, heads: int, context: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.out = init_layer(nn.Linear(channels, channels)), zero_parameters(nn.Linear(channels, channels))
        self.key_value = init_layer(nn.Linear(context, 2 * channels))

    def forward(self, tokens: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        key, value = self.key_value(context).chunk(2, dim=-1)
        return self.out(attend_in_heads(self.query(tokens), key, value, self.heads, mask))


class Block(nn.Module):
    """Self-attention, cross-attention where there are captions, and an MLP, each with a residual connection.

    The embedding shifts and scales the normalised input of self-attention and MLP, and gates their output. The gates
    start at zero, so that a new block is the identity (adaLN-Zero).

    Args:
        channels: width of the tokens [B, N, channels], which the block returns, and of the embedding [B, channels].
        heads: number of attention heads, a divisor of ``channels``.
        context: width of the caption tokens [B, L, context], whose mask [B, L] is True where a token is real; None
            without captions.
    """

    def __init__(self, channels: int, heads: int, context: int | None) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(channels, eps=1e-6, elementwise_affine=False) for _ in range(2))
        self.modulation = zero_parameters(nn.Linear(channels, 6 * channels))
        self.attention = SelfAttention(channels, heads)
        self.cross = None if context is None else CrossAttention(channels, heads, context)
        self.widen = init_layer(nn.Linear(channels, EXPANSION * channels))
        self.narrow = init_layer(nn.Linear(EXPANSION * channels, channels))

    def forward(self, tokens: Tensor, embedding: Tensor, context: Tensor | None, mask: Tensor | None) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(embedding)[:, None].chunk(6, dim=2)
        tokens = tokens + gate1 * self.attention(self.norm1(tokens) * (1.0 + scale1) + shift1)
        if self.cross is not None and context is not None:
            tokens = tokens + self.cross(tokens, context, mask)
        h = self.widen(self.norm2(tokens) * (1.0 + scale2) + shift2)
        return tokens + gate2 * self.narrow(F.gelu(h, approximate="tanh"))


class DiT(nn.Module):
    """The network of :class:`DiTConfig`, from noisy images and time inputs to images.

    Args:
        size: depth, width and patches.
        image: shape (channels, height, width) of the images.
        condition: width of the pooled conditioning vectors, None for an unconditional network.
        context: width of the caption's tokens, None without cross-attention.

    Raises:
        ValueError: if the patches do not divide the image.
    """

    def __init__(
        self, size: DiTConfig, image: tuple[int, int, int], condition: int | None, context: int | None = None
    ) -> None:
        super().__init__()
        check_patch(size.patch, image[1], image[2])
        self.size, width = size, size.channels
        self.enter = zero_parameters(nn.Conv2d(image[0], width, size.patch, stride=size.patch))
        nn.init.xavier_uniform_(self.enter.weight.detach().flatten(1))
        self.features = Positional(TIME_FEATURES)
        self.time = nn.Sequential(
            init_embedding_layer(self.features.width, width), nn.SiLU(), init_embedding_layer(width, width)
        )
        self.pooled = None if condition is None else init_embedding_layer(condition, width)
        self.transformer = nn.ModuleList([Block(width, size.heads, context) for _ in range(size.blocks)])
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = zero_parameters(nn.Linear(width, 2 * width))
        self.leave = zero_parameters(nn.Linear(width, size.patch**2 * image[0]))

    def blocks(self) -> list[nn.Module]:
        """Return the transformer blocks in the order of the forward pass."""
        return list(self.transformer)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        pooled: Tensor | None = None,
        context: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Map x [B, C, H, W], t [B], pooled [B, D], context [B, L, D], mask [B, L] (True if real) to [B, C, H, W].

        Raises:
            ValueError: if the patches do not divide the images.
        """
        patch = self.size.patch
        check_patch(patch, x.shape[2], x.shape[3])
        rows, columns = x.shape[2] // patch, x.shape[3] // patch
        tokens = self.enter(x).flatten(2).transpose(1, 2)
        # float32 positions keep the residual stream in float32 under autocast
        tokens = tokens + position_embedding(rows, columns, self.size.channels, x.device)
        embedding = self.time(self.features(t))
        if self.pooled is not None and pooled is not None:
            embedding = embedding + self.pooled(pooled)
        embedding = F.silu(embedding)
        run = recompute_block if self.size.checkpointing else run_block
        for block in self.transformer:
            tokens = run(block, tokens, embedding, context, mask)
        shift, scale = self.modulation(embedding)[:, None].chunk(2, dim=2)
        pixels = self.leave(self.norm(tokens) * (1.0 + scale) + shift)
        pixels = pixels.unflatten(2, (patch, patch, -1)).unflatten(1, (rows, columns))
        return pixels.permute(0, 5, 1, 3, 2, 4).reshape(x.shape)
