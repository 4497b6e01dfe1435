"""A score model with its description, and images in and out of the space that it draws in."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from raysde.images.tensors import to_float, to_uint8
from raysde.models import autoencoder as latent_space
from raysde.models.score import ScoreModel
from raysde.models.spec import ModelSpec
from raysde.sde import SDE


@dataclass(frozen=True)
class ImagingModel:
    """A score model with its description; :class:`raysde.inference.model.Model` is the whole."""

    score_model: ScoreModel
    spec: ModelSpec

    @property
    def sde(self) -> SDE:
        return self.score_model.sde

    @property
    def device(self) -> torch.device:
        return next(self.score_model.parameters()).device

    def to(self, device: torch.device | str) -> Self:
        """Moves the weights."""
        self.score_model.to(device)
        return self

    @property
    def pixel_range(self) -> tuple[float, float]:
        """Float values of black and white, of a latent model those that its autoencoder knows."""
        return self.spec.data_range if self.spec.latent is None else latent_space.PIXELS

    def pixels(self, x0: Tensor, dtype: torch.dtype = torch.uint8) -> Tensor:
        """Images of what was drawn, through the autoencoder of a latent model: uint8, or floats as they are."""
        if self.spec.latent is not None:
            x0 = latent_space.decode(self.spec.latent, x0)
        return to_uint8(x0, *self.pixel_range) if dtype == torch.uint8 else x0.to(dtype)

    def floats(self, images: Tensor) -> Tensor:
        """uint8 images in the data range that the model knows, or floats that are in it, on its device."""
        moved = images.to(self.device)
        return to_float(moved, *self.spec.data_range) if images.dtype == torch.uint8 else moved.to(torch.float32)

    def frames(self, x: Tensor, times: Tensor | None) -> Tensor:
        """uint8 [N, K, C, H, W] to look at, of states [K, N, ...].

        Args:
            times: [K], of the states, whose signal and noise are then scaled to the range of images: two standard
                deviations of pure noise lie between grey and white. None for clean data, which is shown as it is.
        """
        low, high = self.spec.data_range if self.spec.latent is None else (-1.0, 1.0)
        middle, half = 0.5 * (low + high), 0.5 * (high - low)
        shown = []
        for number, each in enumerate(x.to(self.device)):
            if times is not None:
                alpha, sigma = (value.item() for value in self.sde.marginal(times[number]))
                each = middle + (each - alpha * middle) / (alpha**2 + (2.0 * sigma / half) ** 2) ** 0.5
            shown.append(self.pixels(each).cpu())
        return torch.stack(shown, dim=1)

    def need_pixels(self, what: str) -> None:
        """Guards what makes no sense of latents.

        Raises:
            ValueError: if the model draws latents.
        """
        if self.spec.latent is not None:
            raise ValueError(f"{what} is of pixels, and this model draws latents of {self.spec.latent.vae!r}")
