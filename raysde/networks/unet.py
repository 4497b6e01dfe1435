"""The DDPM++ family of score networks (Song et al. 2021, appendix H), with caption and class conditioning."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raysde.networks.layers import Attention, ResidualBlock, TimeEmbedding, norm, zeroed


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Size of a U-Net; ``build`` makes it.

    Attributes:
        channels: channels of the first level.
        multipliers: channels of each level as multiples of ``channels``; each level halves the resolution.
        blocks: residual blocks in a level.
        attention: resolutions (image heights) at which pixels attend to each other and to the caption.
        head_channels: channels of one attention head.
        dropout: inside residual blocks.
    """

    kind: Literal["unet"] = "unet"
    channels: int = 64
    multipliers: tuple[int, ...] = (1, 2, 2)
    blocks: int = 2
    attention: tuple[int, ...] = (16,)
    head_channels: int = 32
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("channels", "blocks", "head_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.multipliers or min(self.multipliers) < 1:
            raise ValueError(f"multipliers must be positive, got {self.multipliers}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")

    def build(self, image: tuple[int, int, int], condition: int | None, allow_code: bool) -> "UNet":
        """A U-Net for images of shape (channels, height, width), given conditioning vectors of width ``condition``."""
        return UNet(self, image, condition)


class UNet(nn.Module):
    """Noisy images and times to one output per pixel; see :class:`UNetConfig`.

    Args:
        size: depth, width and attention.
        image: shape (channels, height, width) of the images.
        condition: width of the pooled and token conditioning vectors, None for an unconditional network.

    Raises:
        ValueError: if the image cannot be halved at every level, or an attention resolution never occurs.
    """

    def __init__(self, size: UNetConfig, image: tuple[int, int, int], condition: int | None) -> None:
        super().__init__()
        factor = 2 ** (len(size.multipliers) - 1)
        if image[1] % factor or image[2] % factor:
            raise ValueError(
                f"network.multipliers has {len(size.multipliers)} levels: "
                f"image size {image[1:]} must be divisible by {factor}"
            )
        heights = [image[1] // 2**level for level in range(len(size.multipliers))]
        if unknown := set(size.attention) - set(heights):
            raise ValueError(f"network.attention names resolutions {sorted(unknown)}, the levels have {heights}")
        self.size, self.condition, self.embedding = size, condition, 4 * size.channels
        self.time = TimeEmbedding(size.channels, self.embedding)
        self.pooled = None if condition is None else nn.Linear(condition, self.embedding)
        self.enter = nn.Conv2d(image[0], size.channels, 3, padding=1)
        widths = [size.channels * multiplier for multiplier in size.multipliers]
        skips = self.build_down(widths, heights)
        self.middle = nn.ModuleList(
            [self.residual(widths[-1], widths[-1]), Stage(self, widths[-1], widths[-1], bool(size.attention))]
        )
        self.build_up(widths, heights, skips)
        self.leave_norm = norm(widths[0])
        self.leave = zeroed(nn.Conv2d(widths[0], image[0], 3, padding=1))

    def residual(self, inside: int, outside: int, scale: float = 1.0) -> ResidualBlock:
        return ResidualBlock(inside, outside, self.embedding, dropout=self.size.dropout, scale=scale)

    def build_down(self, widths: list[int], heights: list[int]) -> list[int]:
        """Fills ``self.down`` and returns the widths of the skip connections."""
        self.down = nn.ModuleList()
        skips, width = [self.size.channels], self.size.channels
        for level, out in enumerate(widths):
            for _ in range(self.size.blocks):
                self.down.append(Stage(self, width, out, heights[level] in self.size.attention))
                skips.append(width := out)
            if level + 1 < len(widths):
                self.down.append(self.residual(width, width, scale=0.5))
                skips.append(width)
        return skips

    def build_up(self, widths: list[int], heights: list[int], skips: list[int]) -> None:
        """Fills ``self.up``, consuming the skip connections from the last to the first."""
        self.up, remaining, width = nn.ModuleList(), list(skips), widths[-1]
        for level, out in reversed(list(enumerate(widths))):
            for _ in range(self.size.blocks + 1):
                self.up.append(Stage(self, width + remaining.pop(), out, heights[level] in self.size.attention))
                width = out
            if level:
                self.up.append(self.residual(width, width, scale=2.0))
        assert not remaining

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        pooled: Tensor | None = None,
        context: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """x [B, C, H, W], t [B], pooled [B, D], context [B, L, D], mask [B, L] (True = real token) -> [B, C, H, W]."""
        embedding = self.time(t)
        if self.pooled is not None and pooled is not None:
            embedding = embedding + self.pooled(pooled)
        embedding = F.silu(embedding)
        h = self.enter(x)
        skips = [h]
        for stage in self.down:
            h = stage(h, embedding) if isinstance(stage, ResidualBlock) else stage(h, embedding, context, mask)
            skips.append(h)
        h = self.middle[0](h, embedding)
        h = self.middle[1](h, embedding, context, mask)
        for stage in self.up:
            if isinstance(stage, ResidualBlock):
                h = stage(h, embedding)
            else:
                h = stage(torch.cat([h, skips.pop()], dim=1), embedding, context, mask)
        return self.leave(F.silu(self.leave_norm(h)))


class Stage(nn.Module):
    """A residual block, then self-attention and cross-attention where the level has them."""

    def __init__(self, unet: UNet, inside: int, outside: int, attends: bool) -> None:
        super().__init__()
        head = unet.size.head_channels
        self.residual = unet.residual(inside, outside)
        self.attention = Attention(outside, head=head) if attends else None
        crosses = attends and unet.condition is not None
        self.cross = Attention(outside, head=head, context=unet.condition) if crosses else None

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor | None, mask: Tensor | None) -> Tensor:
        x = self.residual(x, embedding)
        if self.attention is not None:
            x = self.attention(x)
        if self.cross is not None and context is not None:
            x = self.cross(x, context, mask)
        return x
