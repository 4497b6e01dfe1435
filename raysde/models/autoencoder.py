"""Images to the latents of an autoencoder and back, through diffusers' AutoencoderKL."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from raysde.images.tensors import to_float
from raysde.io.errors import UNFIT, check_weights_fit, error_line
from raysde.io.hashing import hash_pretrained

PIXELS = (-1.0, 1.0)
"""The data range that such autoencoders are trained on."""


@dataclass(frozen=True, kw_only=True)
class LatentSpec:
    """The space that a latent model is trained in.

    Attributes:
        vae: path or name of the autoencoder.
        sha256: of its configuration and weights.
        scaling_factor, shift_factor: the model sees ``(z - shift_factor) * scaling_factor`` of a latent z.
        shape: (channels, height, width) of a latent.
        pixels: the same of an image.
    """

    vae: str
    sha256: str
    scaling_factor: float
    shift_factor: float
    shape: tuple[int, int, int]
    pixels: tuple[int, int, int]

    def x0(self, moments: Tensor, eps: Tensor) -> Tensor:
        """What the model sees of posteriors [B, 2 C, H, W], drawn with standard normal ``eps`` [B, C, H, W]."""
        mean, log_variance = moments.to(eps.dtype).chunk(2, dim=1)
        z = mean + torch.exp(0.5 * log_variance) * eps
        return (z - self.shift_factor) * self.scaling_factor

    def latents(self, x0: Tensor) -> Tensor:
        """The latents that the model sees as ``x0``."""
        return x0 / self.scaling_factor + self.shift_factor


def vae_hash(path: str) -> str:
    """What tells autoencoders apart: sha256 over configuration and weights.

    Raises:
        ValueError: if there is none.
    """
    return hash_pretrained(path, tokenizer=False, key="vae")


def load_vae(path: str) -> nn.Module:
    """The frozen autoencoder at ``path``, safetensors weights only.

    Raises:
        ValueError: if diffusers is not installed, or there is no AutoencoderKL whose weights are all there.
    """
    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        raise ValueError(f"vae {path!r} needs diffusers: pip install 'raysde[diffusers]'") from error
    vae: Any
    try:
        vae, loading = AutoencoderKL.from_pretrained(
            path, use_safetensors=True, low_cpu_mem_usage=False, torch_dtype=torch.float32, output_loading_info=True
        )
    except UNFIT as error:
        raise ValueError(f"vae {path!r}: no AutoencoderKL can be loaded: {error_line(error)}") from error
    check_weights_fit(loading, f"vae {path!r}")
    return vae.eval().requires_grad_(False)


def latent_spec(path: str, pixels: tuple[int, int, int]) -> LatentSpec:
    """The latent space of an autoencoder for images of shape ``pixels``.

    Raises:
        ValueError: if it takes other channels, cannot halve such a size as often as it does, scales each channel, or
            scales or shifts by what is no number.
    """
    sha256 = vae_hash(path)
    vae: Any = load_vae(path)
    config, (channels, height, width) = vae.config, pixels
    factor = 2 ** (len(config.block_out_channels) - 1)
    if config.in_channels != channels:
        raise ValueError(f"vae {path!r} takes {config.in_channels} channels, the images have {channels}")
    if height % factor or width % factor:
        raise ValueError(f"vae {path!r} takes sides that are multiples of {factor}, the images are {height}x{width}")
    if config.get("latents_mean") is not None or config.get("latents_std") is not None:
        raise ValueError(f"vae {path!r} scales each channel of its latents, which is not supported")
    return LatentSpec(
        vae=path,
        sha256=sha256,
        scaling_factor=_read_factor(path, "scaling_factor", config.scaling_factor, positive=True),
        shift_factor=_read_factor(path, "shift_factor", 0.0 if config.shift_factor is None else config.shift_factor),
        shape=(int(config.latent_channels), height // factor, width // factor),
        pixels=pixels,
    )


def _read_factor(path: str, key: str, value: Any, *, positive: bool = False) -> float:
    """A finite number from an autoencoder's configuration."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or (positive and value <= 0.0):
        kind = "positive" if positive else "finite"
        raise ValueError(f"vae {path!r}: {key} of its config.json must be a {kind} number, got {value!r}")
    return float(value)


@torch.no_grad()
def encode_moments(vae: nn.Module, images: Tensor) -> Tensor:
    """Mean and log-variance [B, 2 C, h, w] of the posteriors of images [B, C, H, W], uint8 or float in PIXELS."""
    shown = to_float(images, *PIXELS) if images.dtype == torch.uint8 else images
    posterior = vae.encode(shown).latent_dist  # type: ignore[operator]
    return torch.cat([posterior.mean, posterior.logvar], dim=1)


@torch.no_grad()
def encode(spec: LatentSpec, images: Tensor) -> Tensor:
    """Encode images, uint8 or float in PIXELS, as the means of their posteriors, one image at a time.

    Raises:
        ValueError: if the autoencoder is not the one that the model was trained with.
    """
    vae = open_autoencoder(spec.vae, spec.sha256, images.device)
    found = torch.cat([encode_moments(vae, image[None]) for image in images])
    return spec.x0(found, torch.zeros(len(images), *spec.shape, device=images.device))


@torch.no_grad()
def decode(spec: LatentSpec, x0: Tensor) -> Tensor:
    """Images of what a latent model drew, float in PIXELS, one at a time: pixels take many times the memory of latents.

    Raises:
        ValueError: if the autoencoder is not the one that the model was trained with.
    """
    vae = open_autoencoder(spec.vae, spec.sha256, x0.device)
    decoded = [vae.decode(z[None]).sample for z in spec.latents(x0)]  # type: ignore[operator]
    return torch.cat(decoded)


@lru_cache(maxsize=1)
def open_autoencoder(path: str, sha256: str, device: torch.device) -> nn.Module:
    """This process's autoencoder.

    Raises:
        ValueError: if its hash is another.
    """
    if (found := vae_hash(path)) != sha256:
        raise ValueError(f"vae {path!r} has sha256 {found[:12]}, the model was trained with {sha256[:12]}")
    return load_vae(path).to(device)
