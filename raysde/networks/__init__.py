"""Score networks: ``network(x, t, pooled, context, mask)`` with x of shape [B, C, H, W]."""

from raysde.networks.external import ExternalConfig
from raysde.networks.unet import UNet, UNetConfig

__all__ = ["ExternalConfig", "UNet", "UNetConfig"]
