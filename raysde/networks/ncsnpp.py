"""DDPM++ and NCSN++, the networks of Song et al. 2021 (arXiv 2011.13456, appendix H), conditioned like the U-Net.

The scaling of time, input and output is not part of the network: see
:class:`raysde.sde.parameterisation.Preconditioning`.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raysde.networks.checks import check_at_least_one, check_levels, check_multiple, level_heights
from raysde.networks.layers import (
    SKIP_SCALE,
    Attention,
    Fourier,
    Positional,
    Stage,
    group_norm,
    init_layer,
    recompute_block,
    run_block,
)
from raysde.networks.protocol import Image
from raysde.networks.pyramids import Head, InputResidual, InputSkip, OutputResidual, OutputSkip
from raysde.networks.resampling import make_doubling, make_doubling_conv, make_halving, make_halving_conv
from raysde.sde.setting import setting

# initial scale of query, key and value projections and of the 1 x 1 skips of DDPM's blocks (Song et al., code)
QUIET = 0.1


@dataclass(frozen=True, kw_only=True)
class NCSNppConfig:
    """DDPM++ and NCSN++ of Song et al. 2021; network.preset names the published sizes.

    Raises:
        ValueError: naming a setting that is out of range.
    """

    kind: Literal["ncsnpp"] = "ncsnpp"
    channels: int = setting(128, "channels of the first level")
    multipliers: tuple[int, ...] = setting(
        (1, 2, 2, 2), "channels of each level as multiples of channels; each level halves the resolution"
    )
    blocks: int = setting(4, "residual blocks in a level")
    attention: tuple[int, ...] = setting(
        (16,),
        "resolutions (image heights) at which pixels attend to each other and to the caption, beside the lowest, which "
        "always does",
    )
    head_channels: int | None = setting(None, "channels of one attention head; null for one head, as published")
    dropout: float = setting(0.1, "dropout probability inside residual blocks")
    resblock: Literal["biggan", "ddpm"] = setting(
        "biggan", "resampling layer: biggan uses a residual block, ddpm a convolution alone"
    )
    fir: bool = setting(False, "resample with a FIR filter instead of averaging and repeating pixels")
    progressive: Literal["none", "output_skip", "residual"] = setting(
        "none", "progressive output: output_skip sums an image of each level, residual sums features"
    )
    progressive_input: Literal["none", "input_skip", "residual"] = setting(
        "none", "progressive input: input_skip feeds the image to each level, residual sums features"
    )
    progressive_combine: Literal["sum", "cat"] = setting("sum", "operation that joins input_skip's image to features")
    skip_rescale: bool = setting(True, "divide sums of two branches by sqrt(2)")
    embedding: Literal["positional", "fourier"] = setting(
        "positional", "time embedding: positional at fixed frequencies of 999 t, fourier at random ones of log sigma"
    )
    fourier_scale: float = setting(16.0, "standard deviation of the random frequencies of embedding=fourier")
    checkpointing: bool = setting(
        False,
        "recompute each block's activations in the backward pass: less memory, about a third more time, and the same "
        "gradients",
    )

    def __post_init__(self) -> None:
        heads = {} if self.head_channels is None else {"head_channels": self.head_channels}
        check_at_least_one({"channels": self.channels, "blocks": self.blocks, **heads})
        check_levels(self.multipliers, self.dropout)
        if self.fourier_scale <= 0.0:
            raise ValueError(f"fourier_scale must be positive, got {self.fourier_scale}")

    @property
    def time_input(self) -> Literal["999t", "log_sigma"]:
        """Default time input: 999 t, or log sigma for random frequencies."""
        return "log_sigma" if self.embedding == "fourier" else "999t"

    @property
    def rescale(self) -> float:
        return SKIP_SCALE if self.skip_rescale else 1.0

    def build(self, image: Image, condition: int | None, context: int | None = None) -> "NCSNpp":
        return NCSNpp(self, image, condition, context)

    def check_size(self, height: int, width: int) -> None:
        check_multiple((height, width), 2 ** (len(self.multipliers) - 1), "network.multipliers")


class ResnetBlock(nn.Module):
    """The block (skip(x) + h(x, embedding)) ``rescale`` of x [B, inside, H, W]; ``resample`` resamples both.

    ``embedding`` is the width of the embedding [B, embedding]. The result is [B, outside, H, W], with H and W halved or
    doubled by ``resample``.
    """

    def __init__(
        self, inside: int, outside: int, embedding: int, size: NCSNppConfig, resample: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.rescale, self.resample = size.rescale, resample or nn.Identity()
        self.norm1, self.norm2 = group_norm(inside), group_norm(outside)
        self.conv1 = init_layer(nn.Conv2d(inside, outside, 3, padding=1))
        self.conv2 = init_layer(nn.Conv2d(outside, outside, 3, padding=1), scale=0.0)
        self.embed = init_layer(nn.Linear(embedding, outside))
        self.dropout = nn.Dropout(size.dropout)
        plain = inside == outside and resample is None
        scale = QUIET if size.resblock == "ddpm" else 1.0
        self.skip = nn.Identity() if plain else init_layer(nn.Conv2d(inside, outside, 1), scale)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(self.resample(F.silu(self.norm1(x))))
        h = h + self.embed(embedding)[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return (self.skip(self.resample(x)) + h) * self.rescale


class Down(nn.Module):
    """A level of the downward path: its stages, then, unless it is the lowest, halving and progressive input.

    It maps h [B, C, H, W] and the pyramid [B, P, H, W] to both at the next level, with H and W halved unless it is the
    lowest, and appends the output of each layer to ``skips``. ``conditions`` holds the embedding [B, D], context
    [B, L, E] and mask [B, L].
    """

    def __init__(self, stages: list[Stage], shrink: nn.Module | None, shown: nn.Module | None) -> None:
        super().__init__()
        self.stages, self.shrink, self.shown = nn.ModuleList(stages), shrink, shown

    def forward(
        self, run: Any, h: Tensor, pyramid: Tensor, skips: list[Tensor], conditions: tuple[Tensor | None, ...]
    ) -> tuple[Tensor, Tensor]:
        for stage in self.stages:
            h = run(stage, h, *conditions)
            skips.append(h)
        if self.shrink is not None:
            h = run(self.shrink, h, conditions[0]) if isinstance(self.shrink, ResnetBlock) else self.shrink(h)
            if self.shown is not None:
                h, pyramid = self.shown(h, pyramid)
            skips.append(h)
        return h, pyramid


class Up(nn.Module):
    """A level of the upward path: its stages, which read the skips, its progressive output and doubled resolution.

    It maps h [B, C, H, W] and the pyramid of the level below, [B, P, H / 2, W / 2], to h with H and W doubled unless it
    is the highest, and the pyramid [B, P, H, W] of this level. It takes its skips [B, S, H, W] from the end of
    ``skips``. ``conditions`` is as for :class:`Down`.
    """

    def __init__(self, stages: list[Stage], part: nn.Module | None, grow: nn.Module | None) -> None:
        super().__init__()
        self.stages, self.part, self.grow = nn.ModuleList(stages), part, grow

    def forward(
        self, run: Any, h: Tensor, pyramid: Tensor | None, skips: list[Tensor], conditions: tuple[Tensor | None, ...]
    ) -> tuple[Tensor, Tensor | None]:
        for stage in self.stages:
            h = run(stage, torch.cat([h, skips.pop()], dim=1), *conditions)
        if self.part is not None:
            h, pyramid = run(self.part, h, pyramid)
        if self.grow is not None:
            h = run(self.grow, h, conditions[0]) if isinstance(self.grow, ResnetBlock) else self.grow(h)
        return h, pyramid


class NCSNpp(nn.Module):
    """The network of :class:`NCSNppConfig`, from noisy images and time inputs to images.

    Args:
        size: depth, width and kind of its parts.
        image: shape (channels, height, width) of the images.
        condition: width of the pooled conditioning vectors, None for an unconditional network.
        context: width of the caption's tokens, None without captions.

    Raises:
        ValueError: if the image cannot be halved at every level, an attention resolution never occurs, or
            ``head_channels`` does not divide the channels there.
    """

    def __init__(
        self, size: NCSNppConfig, image: tuple[int, int, int], condition: int | None, context: int | None = None
    ) -> None:
        super().__init__()
        heights = level_heights(image, size.multipliers, size.attention)
        self.size, self.context, self.embedding = size, context, 4 * size.channels
        fourier = size.embedding == "fourier"
        self.features = Fourier(size.channels, size.fourier_scale) if fourier else Positional(size.channels)
        first, second = nn.Linear(self.features.width, self.embedding), nn.Linear(self.embedding, self.embedding)
        self.time = nn.Sequential(init_layer(first), nn.SiLU(), init_layer(second))
        self.pooled = None if condition is None else init_layer(nn.Linear(condition, self.embedding))
        self.enter = init_layer(nn.Conv2d(image[0], size.channels, 3, padding=1))
        widths = [size.channels * multiplier for multiplier in size.multipliers]
        skips = self.build_down(widths, heights, image[0])
        bottom = widths[-1]
        self.middle = nn.ModuleList([self.stage(bottom, bottom, True), self.stage(bottom, bottom, False)])
        self.build_up(widths, heights, skips, image[0])
        self.leave = None if size.progressive == "output_skip" else Head(widths[0], image[0], scale=0.0)

    def stage(self, inside: int, outside: int, attends: bool) -> Stage:
        """Return a stage from ``inside`` to ``outside`` channels, with attention if it ``attends``."""
        residual = ResnetBlock(inside, outside, self.embedding, self.size)
        crosses = attends and self.context is not None
        return Stage(
            residual,
            self.attention(outside, None) if attends else None,
            self.attention(outside, self.context) if crosses else None,
        )

    def attention(self, width: int, context: int | None) -> Attention:
        """Return an attention layer on ``width`` channels with Song et al.'s initial weights; ``context`` as there."""
        head = self.size.head_channels or width
        made = Attention(width, head=head, context=context, rescale=self.size.rescale)
        for weight in (made.query.weight.detach(), *made.key_value.weight.detach().chunk(2)):
            nn.init.xavier_uniform_(weight, gain=QUIET**0.5)
        for layer in (made.query, made.key_value):
            nn.init.zeros_(layer.bias)
        return made

    def build_down(self, widths: list[int], heights: list[int], image: int) -> list[int]:
        """Fill ``self.down`` from the highest resolution to the lowest; return the channels of the skip connections.

        Args:
            widths: number of channels at each level, from the highest resolution to the lowest.
            heights: height of the feature maps at each level, in pixels.
            image: number of channels of the images.
        """
        self.down = nn.ModuleList()
        size, width, pyramid = self.size, self.size.channels, image
        skips = [width]
        for level, out in enumerate(widths):
            stages = []
            for _ in range(size.blocks):
                stages.append(self.stage(width, out, heights[level] in size.attention))
                skips.append(width := out)
            shrink, shown = None, None
            if level + 1 < len(widths):
                shrink, shown = self.make_halving_block(width), self.make_input_pyramid(pyramid, width)
                doubled = size.progressive_input == "input_skip" and size.progressive_combine == "cat"
                pyramid = width if size.progressive_input == "residual" else image
                skips.append(width := 2 * width if doubled else width)
            self.down.append(Down(stages, shrink, shown))
        return skips

    def make_halving_block(self, width: int) -> nn.Module:
        """Return the layer that halves height and width between two levels, on ``width`` channels."""
        if self.size.resblock == "ddpm":
            return make_halving_conv(width, width, self.size.fir)
        return ResnetBlock(width, width, self.embedding, self.size, make_halving(self.size.fir))

    def make_input_pyramid(self, pyramid: int, width: int) -> nn.Module | None:
        """Return the progressive input from ``pyramid`` channels into features of ``width``; None without one."""
        if self.size.progressive_input == "input_skip":
            return InputSkip(pyramid, width, self.size.fir, self.size.progressive_combine)
        if self.size.progressive_input == "residual":
            return InputResidual(pyramid, width, self.size.fir, self.size.rescale)
        return None

    def build_up(self, widths: list[int], heights: list[int], skips: list[int], image: int) -> None:
        """Fill ``self.up`` from the lowest resolution to the highest.

        Args:
            widths: number of channels at each level, from the highest resolution to the lowest.
            heights: height of the feature maps at each level, in pixels.
            skips: channels of the skip connections, from :meth:`build_down`; each is used once, from the end.
            image: number of channels of the images.
        """
        self.up, remaining, width = nn.ModuleList(), list(skips), widths[-1]
        below: int | None = None
        for level, out in reversed(list(enumerate(widths))):
            stages = []
            for block in range(self.size.blocks + 1):
                attends = block == self.size.blocks and heights[level] in self.size.attention
                stages.append(self.stage(width + remaining.pop(), out, attends))
                width = out
            self.up.append(
                Up(stages, self.part(below, width, image), self.make_doubling_block(width) if level else None)
            )
            below = width
        assert not remaining

    def make_doubling_block(self, width: int) -> nn.Module:
        """Return the layer that doubles height and width between two levels, on ``width`` channels."""
        if self.size.resblock == "ddpm":
            return make_doubling_conv(width, width, self.size.fir)
        return ResnetBlock(width, width, self.embedding, self.size, make_doubling(self.size.fir))

    def part(self, below: int | None, width: int, image: int) -> nn.Module | None:
        """Return the progressive output of a level of ``width`` channels; None without one.

        ``below`` is the number of channels of the level below, None at the lowest; ``image`` that of the images.
        """
        if self.size.progressive == "output_skip":
            return OutputSkip(width, image, self.size.fir, lowest=below is None)
        if self.size.progressive == "residual":
            return OutputResidual(below, width, self.size.fir, self.size.rescale)
        return None

    def blocks(self) -> list[nn.Module]:
        """Return the repeated modules: the stages, and the blocks that change the resolution."""
        stages = [module for module in self.modules() if isinstance(module, Stage)]
        between = [*(level.shrink for level in self.down), *(level.grow for level in self.up)]
        return [*stages, *(module for module in between if isinstance(module, ResnetBlock))]

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        pooled: Tensor | None = None,
        context: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Map x [B, C, H, W], t [B], pooled [B, D], context [B, L, D], mask [B, L] (True if real) to [B, C, H, W]."""
        embedding = self.time(self.features(t))
        if self.pooled is not None and pooled is not None:
            embedding = embedding + self.pooled(pooled)
        conditions = (F.silu(embedding), context, mask)
        run = recompute_block if self.size.checkpointing else run_block
        h, pyramid = self.enter(x), x
        skips = [h]
        for level in self.down:
            h, pyramid = level(run, h, pyramid, skips, conditions)
        for stage in self.middle:
            h = run(stage, h, *conditions)
        out: Tensor | None = None
        for level in self.up:
            h, out = level(run, h, out, skips, conditions)
        if self.leave is not None:
            return run(self.leave, h)
        assert out is not None
        return out
