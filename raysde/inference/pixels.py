"""Conversion between uint8 images and the pixels or latents that a model is trained on."""

from typing import Protocol

import torch
from torch import Tensor

from raysde.images.tensors import to_float, to_uint8
from raysde.models import autoencoder as latent_space
from raysde.models.score import ScoreModel
from raysde.models.spec import ModelSpec


class ModelLike(Protocol):
    """A score model with its description, such as :class:`raysde.inference.model.Model`."""

    @property
    def score_model(self) -> ScoreModel: ...

    @property
    def spec(self) -> ModelSpec: ...


def weights_hash(model: ModelLike) -> str | None:
    """Return the sha256 of the file that a model's weights were read from, None if it is not known."""
    return getattr(model, "weights", None)


def device_of(model: ModelLike) -> torch.device:
    """Return the device of a model's weights."""
    return next(model.score_model.parameters()).device


def pixel_range(spec: ModelSpec) -> tuple[float, float]:
    """Return the float values of black and white; for a latent model those of its autoencoder's images."""
    return spec.data_range if spec.latent is None else latent_space.PIXELS


def to_pixels(model: ModelLike, x0: Tensor, dtype: torch.dtype = torch.uint8) -> Tensor:
    """Return samples x0 [B, ...] as images [B, C, H, W], clipped and rounded for uint8, unchanged for float types.

    A latent model's samples are decoded by its autoencoder."""
    spec = model.spec
    if spec.latent is not None:
        x0 = latent_space.decode(spec.latent, x0)
    return to_uint8(x0, *pixel_range(spec)) if dtype == torch.uint8 else x0.to(dtype)


def to_floats(model: ModelLike, images: Tensor) -> Tensor:
    """Return images [B, C, H, W], uint8 or float in the data range, as float32 in the data range on model's device."""
    moved = images.to(device_of(model))
    return to_float(moved, *model.spec.data_range) if images.dtype == torch.uint8 else moved.to(torch.float32)


def to_frames(model: ModelLike, x: Tensor, times: Tensor | None) -> Tensor:
    """Return states x [K, N, ...] as visible images, uint8 [N, K, C, H, W].

    Args:
        times: [K], times of the states. Each is scaled to the range of images by its alpha and sigma, so that two
            standard deviations of pure noise lie between grey and white. None for clean data, which is not scaled.
    """
    spec = model.spec
    low, high = spec.data_range if spec.latent is None else (-1.0, 1.0)
    middle, half = 0.5 * (low + high), 0.5 * (high - low)
    shown = []
    for number, each in enumerate(x.to(device_of(model))):
        if times is not None:
            alpha, sigma = (value.item() for value in model.score_model.sde.marginal(times[number]))
            each = middle + (each - alpha * middle) / (alpha**2 + (2.0 * sigma / half) ** 2) ** 0.5
        shown.append(to_pixels(model, each).cpu())
    return torch.stack(shown, dim=1)


def need_pixels(model: ModelLike, what: str) -> None:
    """Check that a model is trained on pixels, which the operation ``what`` requires.

    Raises:
        ValueError: if the model is trained on latents.
    """
    if model.spec.latent is not None:
        raise ValueError(f"{what} needs a model of pixels, and this one samples latents of {model.spec.latent.vae!r}")


def check_dtype(dtype: torch.dtype) -> None:
    """Raise ValueError unless ``dtype`` is torch.uint8 or torch.float32, the types of sampled images."""
    if dtype not in (torch.uint8, torch.float32):
        raise ValueError(f"dtype of images must be torch.uint8 or torch.float32, got {dtype}")
