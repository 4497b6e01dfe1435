"""A lean U-Net after DDPM++ (Song et al. 2021, appendix H), with caption and class conditioning.

It changes resolution at lower cost than the published network in :mod:`raysde.networks.ncsnpp`.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raysde.networks.checks import check_at_least_one, check_levels, check_multiple, level_heights, patched_shape
from raysde.networks.layers import (
    Attention,
    ResidualBlock,
    Stage,
    TimeEmbedding,
    group_norm,
    recompute_block,
    run_block,
    zero_parameters,
)
from raysde.networks.protocol import Image
from raysde.sde.setting import setting


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """A lean U-Net for images up to about 64 pixels.

    Raises:
        ValueError: naming a setting that is out of range.
    """

    kind: Literal["unet"] = "unet"
    channels: int = setting(64, "channels of the first level")
    multipliers: tuple[int, ...] = setting(
        (1, 2, 2), "channels of each level as multiples of channels; each level halves the resolution"
    )
    blocks: int | tuple[int, ...] = setting(
        2,
        "residual blocks in every level, or a list with one number per level: [1, 2, 3] puts most weights at low "
        "resolution, where convolutions are cheap (Efficient U-Net: Saharia et al. 2022, arXiv 2205.11487, appendix B)",
    )
    attention: tuple[int, ...] = setting(
        (16,), "resolutions (heights, in patches) at which pixels attend to each other and to the caption"
    )
    head_channels: int = setting(32, "channels of one attention head")
    patch: int = setting(
        1,
        "side of the pixel squares that become channels before the first level, which divides its resolution: 2 costs "
        "about a quarter of the time (Luhman and Luhman 2022, arXiv 2207.04316)",
    )
    dropout: float = setting(0.0, "dropout probability inside residual blocks")
    checkpointing: bool = setting(
        False,
        "recompute each block's activations in the backward pass: less memory, about a third more time, and the same "
        "gradients",
    )

    time_input: ClassVar[Literal["t"]] = "t"

    def __post_init__(self) -> None:
        check_levels(self.multipliers, self.dropout)
        if len(self.depths) != len(self.multipliers):
            levels = len(self.multipliers)
            raise ValueError(f"blocks must be a number or one for each of the {levels} levels, got {self.blocks}")
        counts = {"channels": self.channels, "blocks": min(self.depths), "head_channels": self.head_channels}
        check_at_least_one({**counts, "patch": self.patch})

    @property
    def depths(self) -> tuple[int, ...]:
        """Number of residual blocks in each level."""
        return (self.blocks,) * len(self.multipliers) if isinstance(self.blocks, int) else self.blocks

    def build(self, image: Image, condition: int | None, context: int | None = None) -> "UNet":
        return UNet(self, image, condition, context)

    def check_size(self, height: int, width: int) -> None:
        multiple = self.patch * 2 ** (len(self.multipliers) - 1)
        check_multiple((height, width), multiple, "network.multipliers and network.patch")


class UNet(nn.Module):
    """The network of :class:`UNetConfig`, from noisy images and times to images.

    Args:
        size: depth, width and attention.
        image: shape (channels, height, width) of the images.
        condition: width of the pooled conditioning vectors, None for an unconditional network.
        context: width of the tokens that pixels attend to, None without them.

    Raises:
        ValueError: if patches or levels do not divide the image, or an attention resolution never occurs.
    """

    def __init__(
        self, size: UNetConfig, image: tuple[int, int, int], condition: int | None, context: int | None = None
    ) -> None:
        super().__init__()
        image = patched_shape(image, size.patch)
        heights = level_heights(image, size.multipliers, size.attention)
        self.size, self.context, self.embedding = size, context, 4 * size.channels
        self.time = TimeEmbedding(size.channels, self.embedding)
        self.pooled = None if condition is None else nn.Linear(condition, self.embedding)
        self.enter = nn.Conv2d(image[0], size.channels, 3, padding=1)
        widths = [size.channels * multiplier for multiplier in size.multipliers]
        skips = self.build_down(widths, heights)
        self.middle = nn.ModuleList(
            [self.residual(widths[-1], widths[-1]), self.stage(widths[-1], widths[-1], bool(size.attention))]
        )
        self.build_up(widths, heights, skips)
        self.leave_norm = group_norm(widths[0])
        self.leave = zero_parameters(nn.Conv2d(widths[0], image[0], 3, padding=1))

    def residual(self, inside: int, outside: int, scale: float = 1.0) -> ResidualBlock:
        """Return a block from ``inside`` to ``outside`` channels that multiplies the resolution by ``scale``."""
        return ResidualBlock(inside, outside, self.embedding, dropout=self.size.dropout, scale=scale)

    def stage(self, inside: int, outside: int, attends: bool) -> Stage:
        """Return a stage from ``inside`` to ``outside`` channels, with attention if it ``attends``."""
        residual, head = self.residual(inside, outside), self.size.head_channels
        attention = Attention(outside, head=head) if attends else None
        crosses = attends and self.context is not None
        return Stage(residual, attention, Attention(outside, head=head, context=self.context) if crosses else None)

    def blocks(self) -> list[nn.Module]:
        """Return the repeated modules in the order of the forward pass."""
        return [*self.down, *self.middle, *self.up]

    def build_down(self, widths: list[int], heights: list[int]) -> list[int]:
        """Fill ``self.down`` from the highest resolution to the lowest; return the channels of the skip connections.

        Args:
            widths: number of channels at each level, from the highest resolution to the lowest.
            heights: height of the feature maps at each level, in pixels.
        """
        self.down = nn.ModuleList()
        skips, width = [self.size.channels], self.size.channels
        for level, out in enumerate(widths):
            for _ in range(self.size.depths[level]):
                self.down.append(self.stage(width, out, heights[level] in self.size.attention))
                skips.append(width := out)
            if level + 1 < len(widths):
                self.down.append(self.residual(width, width, scale=0.5))
                skips.append(width)
        return skips

    def build_up(self, widths: list[int], heights: list[int], skips: list[int]) -> None:
        """Fill ``self.up`` from the lowest resolution to the highest.

        Args:
            widths: number of channels at each level, from the highest resolution to the lowest.
            heights: height of the feature maps at each level, in pixels.
            skips: channels of the skip connections, from :meth:`build_down`; each is used once, from the end.
        """
        self.up, remaining, width = nn.ModuleList(), list(skips), widths[-1]
        for level, out in reversed(list(enumerate(widths))):
            for _ in range(self.size.depths[level] + 1):
                self.up.append(self.stage(width + remaining.pop(), out, heights[level] in self.size.attention))
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
        """Map x [B, C, H, W], t [B], pooled [B, D], context [B, L, D], mask [B, L] (True if real) to [B, C, H, W]."""
        embedding = self.time(t)
        if self.pooled is not None and pooled is not None:
            embedding = embedding + self.pooled(pooled)
        embedding = F.silu(embedding)
        run = recompute_block if self.size.checkpointing else run_block
        h = self.enter(F.pixel_unshuffle(x, self.size.patch))
        skips = [h]
        for stage in self.down:
            captions = () if isinstance(stage, ResidualBlock) else (context, mask)
            h = run(stage, h, embedding, *captions)
            skips.append(h)
        h = run(self.middle[0], h, embedding)
        h = run(self.middle[1], h, embedding, context, mask)
        for stage in self.up:
            if isinstance(stage, ResidualBlock):
                h = run(stage, h, embedding)
            else:
                h = run(stage, torch.cat([h, skips.pop()], dim=1), embedding, context, mask)
        return F.pixel_shuffle(self.leave(F.silu(self.leave_norm(h))), self.size.patch)
