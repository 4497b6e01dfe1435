"""Score networks, called as ``network(x, t, pooled, context, mask)`` with x of shape [B, C, H, W]."""

from raysde.networks.diffusers import DiffusersConfig
from raysde.networks.dit import DiT, DiTConfig
from raysde.networks.external import ExternalConfig
from raysde.networks.ncsnpp import NCSNpp, NCSNppConfig
from raysde.networks.presets import PRESETS
from raysde.networks.protocol import NetworkConfig
from raysde.networks.unet import UNet, UNetConfig

AnyNetwork = UNetConfig | NCSNppConfig | DiTConfig | DiffusersConfig | ExternalConfig
"""Every :class:`NetworkConfig` that a recipe can select by its ``kind``."""

__all__ = [
    "PRESETS",
    "AnyNetwork",
    "DiT",
    "DiTConfig",
    "DiffusersConfig",
    "ExternalConfig",
    "NCSNpp",
    "NCSNppConfig",
    "NetworkConfig",
    "UNet",
    "UNetConfig",
]
