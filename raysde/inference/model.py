"""A trained model in use: images for prompts and class labels, edits, likelihoods and latents."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self, TypedDict, Unpack

import torch
from torch import Tensor

from raysde import rng
from raysde.data.classes import Label
from raysde.inference.edit import EditingModel, check_weights
from raysde.inference.sample import check_dtype
from raysde.sampling import likelihood
from raysde.sampling.sampler import Samples


class Flowing(TypedDict, total=False):
    """The keyword arguments of what goes along the probability flow."""

    prompts: Sequence[str] | None
    labels: Sequence[Label] | None
    guidance: float
    rtol: float
    atol: float


@dataclass(frozen=True)
class Origin:
    """The diffusers pipeline that a model was imported from.

    Attributes:
        pipeline: its class.
        scheduler: its scheduler's configuration.
        scheduler_class: the scheduler's class; None for an import from before it was stored.
    """

    pipeline: str
    scheduler: dict[str, Any]
    scheduler_class: str | None = None

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self | None:
        """Return the origin that a checkpoint names beside its data set, None if the model was trained here."""
        known = {field.name: data[field.name] for field in fields(cls) if field.name in data}
        return cls(**known) if {"pipeline", "scheduler"} <= set(known) else None


@dataclass(frozen=True)
class Model(EditingModel):
    """A score model with its description; what it can do to images is in :class:`raysde.inference.edit.EditingModel`,
    and how it draws them in :class:`raysde.inference.sample.DrawingModel`.

    Attributes:
        origin: the pipeline that it was imported from, None if there was none.
    """

    origin: Origin | None = field(default=None, compare=False)

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
        rtol: float = likelihood.TOLERANCE,
        atol: float = likelihood.TOLERANCE,
    ) -> likelihood.LogProb:
        """log-density in nats of images [B, C, H, W] in the model's data range, uint8 or float; see
        :func:`raysde.sampling.likelihood.log_prob`."""
        self._check("log_prob", images, self.spec.image)
        return likelihood.log_prob(
            self.conditioned(prompts, labels, len(images), guidance),  # type: ignore[arg-type]
            self.floats(images),
            self.sde,
            divergence=divergence,
            probes=probes,
            generator=rng.generator(seed, rng.PROBES, device=self.device),
            rtol=rtol,
            atol=atol,
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
        divergence: likelihood.Divergence = "rademacher",
        probes: int = 1,
        rtol: float = likelihood.TOLERANCE,
        atol: float = likelihood.TOLERANCE,
    ) -> likelihood.BitsPerDim:
        """Bits per dimension of uint8 images [B, C, H, W]; see :func:`raysde.sampling.likelihood.bits_per_dim`."""
        self._check("bits_per_dim", images, self.spec.image, whole=True)
        return likelihood.bits_per_dim(
            self.conditioned(prompts, labels, len(images), guidance),  # type: ignore[arg-type]
            images.to(self.device),
            self.sde,
            data_range=self.spec.data_range,
            repeats=repeats,
            divergence=divergence,
            probes=probes,
            generator=rng.generator(seed, rng.PROBES, device=self.device),
            rtol=rtol,
            atol=atol,
        )

    def encode(self, images: Tensor, **options: Unpack[Flowing]) -> Tensor:
        """The latents [B, C, H, W] of images, uint8 or float in the data range; :meth:`decode` inverts it.

        Args:
            options: see :meth:`encode_counted`, which also says what it cost.
        """
        return self.encode_counted(images, **options).x

    def encode_counted(self, images: Tensor, **options: Unpack[Flowing]) -> Samples:
        """The latents of images as :meth:`encode` finds them, and the network evaluations of each.

        Args:
            images: [B, C, H, W], uint8 or float in the data range.
            options: prompts and labels, one for each image; guidance, which has to be 1; rtol and atol of the solver.

        Raises:
            ValueError: if the images do not fit the model, or the score is guided.
        """
        self._check("encode", images, self.spec.image)
        score, tolerances = self._flow(len(images), **options)
        return Samples(*likelihood.encode_counted(score, self.floats(images), self.sde, **tolerances))

    def decode(self, latents: Tensor, *, dtype: torch.dtype = torch.uint8, **options: Unpack[Flowing]) -> Tensor:
        """Images of latents [B, C, H, W], uint8, or float32 as the flow leaves them.

        Args:
            dtype: torch.uint8 or torch.float32.
            options: see :meth:`decode_counted`, which also says what it cost.
        """
        return self.decode_counted(latents, dtype=dtype, **options).x

    def decode_counted(
        self, latents: Tensor, *, dtype: torch.dtype = torch.uint8, **options: Unpack[Flowing]
    ) -> Samples:
        """The images of latents as :meth:`decode` makes them, and the network evaluations of each.

        Args:
            latents: [B, C, H, W], float.
            dtype, options: see :meth:`decode` and :meth:`encode_counted`.

        Raises:
            ValueError: if the model draws latents of an autoencoder, or the score is guided.
        """
        self.need_pixels("decode")
        check_dtype(dtype)
        score, tolerances = self._flow(len(latents), **options)
        x0, nfe = likelihood.decode_counted(score, latents.to(self.device), self.sde, **tolerances)
        return Samples(self.pixels(x0, dtype).cpu(), nfe)

    def interpolate(
        self,
        first: Tensor,
        second: Tensor,
        weights: Sequence[float],
        *,
        dtype: torch.dtype = torch.uint8,
        **options: Unpack[Flowing],
    ) -> Tensor:
        """Images [K, B, C, H, W] on the way from images ``first`` to ``second``, through their latents.

        Args:
            first, second: uint8 or float in the data range.
            dtype, options: see :meth:`decode`.

        Raises:
            ValueError: if the images do not fit the model or each other, or as
            :func:`raysde.inference.edit.check_weights`.
        """
        check_weights(weights)
        if len(first) != len(second):
            raise ValueError(f"interpolate: {len(first)} images and {len(second)}: give as many to go to as to go from")
        start, end = (self.encode(images, **options) for images in (first, second))
        path = likelihood.interpolate(start, end, torch.tensor(weights))
        return torch.stack([self.decode(latents, dtype=dtype, **options) for latents in path])

    def _flow(
        self,
        count: int,
        *,
        prompts: Sequence[str] | None = None,
        labels: Sequence[Label] | None = None,
        guidance: float = 1.0,
        rtol: float = likelihood.TOLERANCE,
        atol: float = likelihood.TOLERANCE,
    ) -> tuple[Any, dict[str, float]]:
        """The score of the probability flow of some images, and the solver's tolerances."""
        return self.conditioned(prompts, labels, count, guidance), {"rtol": rtol, "atol": atol}
