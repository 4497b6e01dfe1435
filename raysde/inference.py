"""A trained model in use: images for prompts and class labels, edits, likelihoods and latents."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raysde import likelihood, randomness
from raysde.classes import Label
from raysde.edits import EditingModel, check_weights
from raysde.images import to_uint8


@dataclass(frozen=True)
class Model(EditingModel):
    """A score model with its description; what it can do to images is in :class:`raysde.edits.EditingModel`, and how it
    draws them in :class:`raysde.drawing.DrawingModel`."""

    def log_prob(
        self,
        images: Tensor,
        *,
        prompts: Sequence[str] | None = None,
        labels: Sequence[Label] | None = None,
        seed: int = 0,
        guidance: float = 1.0,
        divergence: likelihood.Divergence = "rademacher",
        probes: int = 4,
    ) -> likelihood.LogProb:
        """log-density in nats of uint8 images [B, C, H, W] mapped to the model's data range; see
        :func:`raysde.likelihood.log_prob`."""
        self._check("log_prob", images, self.spec.image)
        return likelihood.log_prob(
            self.conditioned(prompts, labels, len(images), guidance),  # type: ignore[arg-type]
            self.floats(images),
            self.sde,
            divergence=divergence,
            probes=probes,
            generator=randomness.generator(seed, randomness.PROBES, device=self.device),
        )

    def bits_per_dim(
        self,
        images: Tensor,
        *,
        prompts: Sequence[str] | None = None,
        labels: Sequence[Label] | None = None,
        seed: int = 0,
        guidance: float = 1.0,
        repeats: int = 5,
        probes: int = 1,
    ) -> likelihood.BitsPerDim:
        """Bits per dimension of uint8 images [B, C, H, W]; see :func:`raysde.likelihood.bits_per_dim`."""
        self._check("bits_per_dim", images, self.spec.image)
        return likelihood.bits_per_dim(
            self.conditioned(prompts, labels, len(images), guidance),  # type: ignore[arg-type]
            images.to(self.device),
            self.sde,
            data_range=self.spec.data_range,
            repeats=repeats,
            probes=probes,
            generator=randomness.generator(seed, randomness.PROBES, device=self.device),
        )

    def encode(
        self,
        images: Tensor,
        *,
        prompts: Sequence[str] | None = None,
        labels: Sequence[Label] | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        """The latents [B, C, H, W] of uint8 images; :meth:`decode` inverts it."""
        self._check("encode", images, self.spec.image)
        score = self.conditioned(prompts, labels, len(images), guidance)
        return likelihood.encode(score, self.floats(images), self.sde)  # type: ignore[arg-type]

    def decode(
        self,
        latents: Tensor,
        *,
        prompts: Sequence[str] | None = None,
        labels: Sequence[Label] | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        """uint8 images of latents [B, C, H, W]."""
        self.need_pixels("decode")
        score = self.conditioned(prompts, labels, len(latents), guidance)
        return to_uint8(likelihood.decode(score, latents.to(self.device), self.sde), *self.spec.data_range).cpu()  # type: ignore[arg-type]

    def interpolate(
        self,
        first: Tensor,
        second: Tensor,
        weights: Sequence[float],
        *,
        prompts: Sequence[str] | None = None,
        labels: Sequence[Label] | None = None,
    ) -> Tensor:
        """uint8 images [K, B, C, H, W] on the way from uint8 images ``first`` to ``second``, through their latents.

        Raises:
            ValueError: if the images do not fit the model or each other, or as :func:`raysde.edits.check_weights`.
        """
        check_weights(weights)
        if len(first) != len(second):
            raise ValueError(f"interpolate: {len(first)} images and {len(second)}: give as many to go to as to go from")
        start, end = (self.encode(images, prompts=prompts, labels=labels) for images in (first, second))
        path = likelihood.interpolate(start, end, torch.tensor(weights))
        return torch.stack([self.decode(latents, prompts=prompts, labels=labels) for latents in path])
