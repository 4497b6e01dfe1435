"""Images in and out of the space that a model draws in."""

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

    @property
    def weights(self) -> str | None: ...


def device_of(model: ModelLike) -> torch.device:
    """Return the device of a model's weights."""
    return next(model.score_model.parameters()).device


def pixel_range(spec: ModelSpec) -> tuple[float, float]:
    """Return the float values of black and white, of a latent model those that its autoencoder knows."""
    return spec.data_range if spec.latent is None else latent_space.PIXELS


def to_pixels(model: ModelLike, x0: Tensor, dtype: torch.dtype = torch.uint8) -> Tensor:
    """Return images of what was drawn, through the autoencoder of a latent model: uint8, or floats as they are."""
    spec = model.spec
    if spec.latent is not None:
        x0 = latent_space.decode(spec.latent, x0)
    return to_uint8(x0, *pixel_range(spec)) if dtype == torch.uint8 else x0.to(dtype)


def to_floats(model: ModelLike, images: Tensor) -> Tensor:
    """Return uint8 images in the data range that a model knows, or floats that are in it, on its device."""
    moved = images.to(device_of(model))
    return to_float(moved, *model.spec.data_range) if images.dtype == torch.uint8 else moved.to(torch.float32)


def to_frames(model: ModelLike, x: Tensor, times: Tensor | None) -> Tensor:
    """Return uint8 [N, K, C, H, W] to look at, of states [K, N, ...].

    Args:
        times: [K], of the states, whose signal and noise are then scaled to the range of images: two standard
            deviations of pure noise lie between grey and white. None for clean data, which is shown as it is.
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
    """Guard what makes no sense of latents.

    Raises:
        ValueError: if the model draws latents.
    """
    if model.spec.latent is not None:
        raise ValueError(f"{what} is of pixels, and this model draws latents of {model.spec.latent.vae!r}")


def check_dtype(dtype: torch.dtype) -> None:
    """Raise ValueError unless images can be asked for in a type."""
    if dtype not in (torch.uint8, torch.float32):
        raise ValueError(f"dtype of images must be torch.uint8 or torch.float32, got {dtype}")
