"""Conversion between images and the latents of an autoencoder, diffusers' AutoencoderKL."""

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
"""The data range on which such autoencoders are trained."""


@dataclass(frozen=True, kw_only=True)
class LatentSpec:
    """The latent space of a latent model.

    Attributes:
        vae: path or name of the autoencoder.
        sha256: hash of its configuration and weights.
        scaling_factor, shift_factor: the model's data are ``(z - shift_factor) * scaling_factor`` of latents z.
        shape: shape (channels, height, width) of a latent.
        pixels: shape (channels, height, width) of an image.
    """

    vae: str
    sha256: str
    scaling_factor: float
    shift_factor: float
    shape: tuple[int, int, int]
    pixels: tuple[int, int, int]

    def x0(self, moments: Tensor, eps: Tensor) -> Tensor:
        """Return the model's data, sampled from posteriors [B, 2 C, H, W] with standard normal ``eps`` [B, C, H, W]."""
        mean, log_variance = moments.to(eps.dtype).chunk(2, dim=1)
        z = mean + torch.exp(0.5 * log_variance) * eps
        return (z - self.shift_factor) * self.scaling_factor

    def latents(self, x0: Tensor) -> Tensor:
        """Return the latents z of the model's data ``x0``, both [B, C, H, W]."""
        return x0 / self.scaling_factor + self.shift_factor


def vae_hash(path: str) -> str:
    """Return the sha256 over an autoencoder's configuration and weights, as a hexadecimal string.

    Raises:
        ValueError: if there is no autoencoder at ``path``.
    """
    return hash_pretrained(path, tokenizer=False, key="vae")


def load_vae(path: str) -> nn.Module:
    """Load the frozen autoencoder at ``path``, from safetensors weights only.

    Raises:
        ValueError: if diffusers is not installed, or there is no AutoencoderKL with all of its weights.
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
    """Return the latent space of an autoencoder for images of shape ``pixels`` (channels, height, width).

    Raises:
        ValueError: if the autoencoder takes other channels, its downsampling does not divide the size, it scales
            latents per channel, or its scaling or shift factor is not a number.
    """
    sha256 = vae_hash(path)
    vae: Any = load_vae(path)
    config, (channels, height, width) = vae.config, pixels
    factor = 2 ** (len(config.block_out_channels) - 1)
    if config.in_channels != channels:
        raise ValueError(
            f"vae {path!r} takes {config.in_channels} channels, the images have {channels}; "
            f"ingest with --channels {config.in_channels}"
        )
    if height % factor or width % factor:
        raise ValueError(f"vae {path!r} takes sides that are multiples of {factor}, the images are {height}x{width}")
    if config.get("latents_mean") is not None or config.get("latents_std") is not None:
        raise ValueError(f"vae {path!r} scales its latents per channel, which is not supported")
    return LatentSpec(
        vae=path,
        sha256=sha256,
        scaling_factor=_read_factor(path, "scaling_factor", config.scaling_factor, positive=True),
        shift_factor=_read_factor(path, "shift_factor", 0.0 if config.shift_factor is None else config.shift_factor),
        shape=(int(config.latent_channels), height // factor, width // factor),
        pixels=pixels,
    )


def _read_factor(path: str, key: str, value: Any, *, positive: bool = False) -> float:
    """Return a finite number from an autoencoder's configuration."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or (positive and value <= 0.0):
        kind = "positive" if positive else "finite"
        raise ValueError(f"vae {path!r}: {key} of its config.json must be a {kind} number, got {value!r}")
    return float(value)


@torch.no_grad()
def encode_moments(vae: nn.Module, images: Tensor) -> Tensor:
    """Return posterior means and log-variances [B, 2 C, h, w] of images [B, C, H, W], uint8 or float in PIXELS."""
    shown = to_float(images, *PIXELS) if images.dtype == torch.uint8 else images
    posterior = vae.encode(shown).latent_dist  # type: ignore[operator]
    return torch.cat([posterior.mean, posterior.logvar], dim=1)


@torch.no_grad()
def encode(spec: LatentSpec, images: Tensor) -> Tensor:
    """Encode images [B, C, H, W], uint8 or float in PIXELS, as their posterior means, one image at a time.

    Raises:
        ValueError: if the autoencoder is not the one that the model was trained with.
    """
    vae = open_autoencoder(spec.vae, spec.sha256, images.device)
    found = torch.cat([encode_moments(vae, image[None]) for image in images])
    return spec.x0(found, torch.zeros(len(images), *spec.shape, device=images.device))


@torch.no_grad()
def decode(spec: LatentSpec, x0: Tensor) -> Tensor:
    """Decode latent data [B, C, h, w] into images [B, C, H, W], float in PIXELS, one at a time to save memory.

    Raises:
        ValueError: if the autoencoder is not the one that the model was trained with.
    """
    vae = open_autoencoder(spec.vae, spec.sha256, x0.device)
    decoded = [vae.decode(z[None]).sample for z in spec.latents(x0)]  # type: ignore[operator]
    return torch.cat(decoded)


@lru_cache(maxsize=1)
def open_autoencoder(path: str, sha256: str, device: torch.device) -> nn.Module:
    """Load an autoencoder, cached in this process.

    Raises:
        ValueError: if its hash differs from ``sha256``.
    """
    if (found := vae_hash(path)) != sha256:
        raise ValueError(
            f"vae {path!r} has sha256 {found[:12]}, the model was trained with {sha256[:12]}; "
            "restore that autoencoder there"
        )
    return load_vae(path).to(device)
