"""Adapters for networks of diffusers; :mod:`raysde.networks.diffusers_contract` describes their inputs and outputs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from raysde.io.errors import UNFIT, error_line
from raysde.networks.checks import check_multiple
from raysde.networks.protocol import Image

Architecture = Literal["UNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel"]
DEFAULT_LEVELS, DEFAULT_PATCH = range(4), 2
"""diffusers 0.42's default levels of a UNet2DModel and default patch size of a DiTTransformer2DModel."""


@dataclass(frozen=True, kw_only=True)
class DiffusersConfig:
    """A network class of diffusers and its arguments.

    Raises:
        ValueError: if ``architecture`` is not one of these.
    """

    kind: Literal["diffusers"] = "diffusers"
    architecture: Architecture = field(
        metadata={
            "description": "class of diffusers: UNet2DModel, UNet2DConditionModel (cross-attention to captions or "
            "labels) or DiTTransformer2DModel (class labels)"
        }
    )
    config: dict[str, Any] = field(
        default_factory=dict,
        metadata={
            "description": "arguments of the class, named as in the config.json that diffusers writes; the data "
            "determine channels, size and widths of the conditions"
        },
    )

    time_input: ClassVar[Literal["999t"]] = "999t"  # for sinusoidal times; the contract overrides it

    def __post_init__(self) -> None:
        if self.architecture not in ADAPTERS:
            raise ValueError(f"architecture must be one of {', '.join(ADAPTERS)}, got {self.architecture!r}")

    def build(self, image: Image, condition: int | None, context: int | None = None) -> nn.Module:
        return ADAPTERS[self.architecture](self.complete_config(image), image, condition)

    def check_size(self, height: int, width: int) -> None:
        if self.architecture == "UNet2DModel":
            levels = len(self.config.get("block_out_channels", DEFAULT_LEVELS))
            check_multiple((height, width), 2 ** (levels - 1), "network.config.block_out_channels")
        elif self.architecture == "DiTTransformer2DModel":
            if height != width:
                raise ValueError(f"size {height}x{width}: DiTTransformer2DModel takes square images")
            check_multiple((height, width), self.config.get("patch_size", DEFAULT_PATCH), "network.config.patch_size")

    def complete_config(self, image: Image) -> dict[str, Any]:
        """Return ``config`` with the channels and the size of the images filled in.

        Raises:
            ValueError: if ``config`` has other channels, another or an invalid size, or blocks that do not fit.
        """
        channels, height, width = image
        size = height if height == width else [height, width]
        given = {"in_channels": channels, "sample_size": size, "out_channels": channels, **self.config}
        asked = size if given["sample_size"] is None else given["sample_size"]
        if given["in_channels"] != channels:
            raise ValueError(
                f"network.config.in_channels={given['in_channels']}, but the images have {channels}; leave the key out"
            )
        if given["out_channels"] not in (channels, 2 * channels, None):
            raise ValueError(
                f"network.config.out_channels={given['out_channels']}, but images of {channels} channels need "
                f"{channels}, or {2 * channels} with a learned variance"
            )
        if parse_sides(asked, "network.config.sample_size") != (height, width):
            raise ValueError(
                f"network.config.sample_size={asked}, but the images are {height}x{width}; leave the key out"
            )
        blocks = [*block_types(given, "down_block_types"), *block_types(given, "up_block_types")]
        if channels != 3 and any("Skip" in block for block in blocks):
            raise ValueError(
                f"network.config: Skip blocks of diffusers take 3 channels, the images have {channels}"
                "; choose other blocks"
            )
        return {**given, "sample_size": size}


class PlainUNet(nn.Module):
    """UNet2DModel; the pooled condition [B, D] is projected and added to the time embedding.

    Raises:
        ValueError: if diffusers rejects ``config``, a key is set by raysde itself, or the levels do not divide the
            image.
    """

    def __init__(self, config: dict[str, Any], image: Image, condition: int | None) -> None:
        super().__init__()
        for key in ("class_embed_type", "num_class_embeds"):
            if config.get(key) is not None:
                raise ValueError(
                    f"network.config.{key} cannot be set: raysde embeds classes and captions itself; leave the key out"
                )
        own = {} if condition is None else {"class_embed_type": "identity"}
        self.channels = image[0]
        self.model = make_network("UNet2DModel", {**config, **own})
        factor = 2 ** (len(self.model.config.block_out_channels) - 1)
        if image[1] % factor or image[2] % factor:
            raise ValueError(
                f"network.config.block_out_channels has {len(self.model.config.block_out_channels)} levels: "
                f"image size {image[1:]} must be divisible by {factor}"
            )
        width = self.model.time_embedding.linear_2.out_features
        self.pooled = None if condition is None else nn.Linear(condition, width)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        pooled: Tensor | None = None,
        context: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Map x [B, C, H, W], t [B], pooled [B, D] to [B, C, H, W]; context and mask are ignored."""
        vector = None if self.pooled is None else self.pooled(pooled)
        return keep_mean(self.model(x, t, class_labels=vector, return_dict=False), self.channels)


class ConditionedUNet(nn.Module):
    """UNet2DConditionModel; it attends to the captions' tokens, or without captions to the pooled vector.

    With class_embed_type projection or simple_projection the pooled vector is also added to the time embedding.

    Raises:
        ValueError: if diffusers rejects ``config``, or cross_attention_dim is not the width of the conditions.
    """

    def __init__(self, config: dict[str, Any], image: Image, condition: int | None) -> None:
        super().__init__()
        assert condition is not None
        width = config.get("cross_attention_dim", condition)
        if width != condition:
            raise ValueError(
                f"network.config.cross_attention_dim={width}, but the conditions have width {condition}"
                "; leave the key out"
            )
        own: dict[str, Any] = {"cross_attention_dim": condition}
        self.projects = config.get("class_embed_type") is not None
        if self.projects:
            own["projection_class_embeddings_input_dim"] = condition
        self.channels = image[0]
        self.model = make_network("UNet2DConditionModel", {**config, **own})

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        pooled: Tensor | None = None,
        context: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Map x [B, C, H, W], t [B], pooled [B, D], context [B, L, D], mask [B, L] (True if real) to [B, C, H, W]."""
        assert pooled is not None
        tokens, real = (pooled[:, None], None) if context is None else (context, mask)
        vector = pooled if self.projects else None
        output = self.model(x, t, tokens, class_labels=vector, encoder_attention_mask=real, return_dict=False)
        return keep_mean(output, self.channels)


class Transformer(nn.Module):
    """DiTTransformer2DModel; projections of the pooled vector replace its class embeddings.

    Without a condition every image has the null class, which is the last row of the embeddings.

    Raises:
        ValueError: if diffusers rejects ``config``, or the images are not square or no multiple of the patch size.
    """

    def __init__(self, config: dict[str, Any], image: Image, condition: int | None) -> None:
        super().__init__()
        if image[1] != image[2]:
            raise ValueError(
                f"DiTTransformer2DModel takes square images, these are {image[1]}x{image[2]}; set data.image_size"
            )
        self.channels, self.classes = image[0], config.get("num_embeds_ada_norm", 1)
        # each block has its own table of class embeddings, which labels never index
        self.model = make_network("DiTTransformer2DModel", {**config, "num_embeds_ada_norm": self.classes})
        if image[1] % self.model.config.patch_size:
            raise ValueError(
                f"network.config.patch_size={self.model.config.patch_size} does not divide image size {image[1]}"
                "; choose a divisor"
            )
        self.is_conditional = condition is not None
        if condition is None:
            return
        for block in self.model.transformer_blocks:
            block.norm1.emb.class_embedder = nn.Linear(condition, self.model.inner_dim)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        pooled: Tensor | None = None,
        context: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Map x [B, C, H, W], t [B], pooled [B, D] to [B, C, H, W]; context and mask are ignored."""
        null = torch.full((len(x),), self.classes, device=x.device)
        output = self.model(x, t, class_labels=pooled if self.is_conditional else null, return_dict=False)
        return keep_mean(output, self.channels)


ADAPTERS: dict[str, type[PlainUNet] | type[ConditionedUNet] | type[Transformer]] = {
    "UNet2DModel": PlainUNet,
    "UNet2DConditionModel": ConditionedUNet,
    "DiTTransformer2DModel": Transformer,
}
assert tuple(ADAPTERS) == get_args(Architecture)


def keep_mean(output: tuple[Tensor, ...], channels: int) -> Tensor:
    """Return the first ``channels`` channels of the first output, [B, channels, H, W].

    Args:
        output: the network's outputs; the first is [B, C, H, W]. Channels beyond ``channels`` are a learned variance
            (Nichol and Dhariwal 2021).
    """
    return output[0][:, :channels]


def make_network(architecture: Architecture, arguments: dict[str, Any]) -> Any:
    """Return a network of diffusers with fresh weights.

    Raises:
        ValueError: if diffusers is not installed or rejects the arguments.
    """
    try:
        return getattr(import_diffusers("network.kind=diffusers"), architecture)(**arguments)
    except UNFIT as error:
        raise ValueError(f"network.config: {architecture} rejects it: {error_line(error)}") from error


def parse_sides(size: Any, key: str) -> tuple[int, int]:
    """Return (height, width) of a ``sample_size`` of diffusers, which is one number or two.

    Raises:
        ValueError: if it is anything else, naming ``key``.
    """
    pair = size if isinstance(size, list | tuple) else (size, size)
    if len(pair) != 2 or not all(type(side) is int and side > 0 for side in pair):
        raise ValueError(f"{key}={size!r} must be a whole number or two of them")
    return pair[0], pair[1]


def block_types(config: Mapping[str, Any], key: str) -> list[str]:
    """Return the block names under a key of ``network.config``; empty if the key is absent.

    Raises:
        ValueError: if the value is not a list of names, naming the key.
    """
    names = config.get(key, ())
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"network.config.{key}={names!r} must be a list of names")
    return list(names)


def import_diffusers(what: str) -> Any:
    """Import and return diffusers.

    Raises:
        ValueError: if it is not installed, saying that ``what`` needs it.
    """
    try:
        import diffusers
    except ImportError as error:
        raise ValueError(f"{what} needs diffusers: pip install 'raysde[diffusers]'") from error
    return diffusers
