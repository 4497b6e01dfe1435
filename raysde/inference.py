"""A trained model in use: images for prompts and class labels, one random stream for each image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import torch
from torch import Tensor

from raysde import latents as latent_space
from raysde import likelihood, randomness
from raysde.guidance import Conditioned, Guided
from raysde.images import grid as image_grid
from raysde.images import save_png, to_float, to_uint8
from raysde.model import ModelSpec
from raysde.sampler import Method, Settings, sample
from raysde.score import ScoreModel
from raysde.sde import SDE


@dataclass(frozen=True)
class Drawn:
    """Images uint8 [N, C, H, W], the prompts they were drawn for, and the network evaluations each one took."""

    images: Tensor
    prompts: list[str] | None
    seed: int
    nfe: int

    def save(self, folder: str | Path) -> list[Path]:
        """Writes ``image-000.png`` and so on, and ``grid.png``; returns the paths, the grid's last."""
        folder = Path(folder)
        paths = save_png(self.images, folder, [f"image-{index:03d}" for index in range(len(self.images))])
        image_grid(self.images).save(folder / "grid.png")
        return [*paths, folder / "grid.png"]


@dataclass(frozen=True)
class Model:
    """A score model with its description."""

    score_model: ScoreModel
    spec: ModelSpec

    @property
    def sde(self) -> SDE:
        return self.spec.sde

    @property
    def device(self) -> torch.device:
        return next(self.score_model.parameters()).device

    def to(self, device: torch.device | str) -> "Model":
        """Moves the weights."""
        self.score_model.to(device)
        return self

    @torch.no_grad()
    def sample(
        self,
        *,
        prompts: Sequence[str] | None = None,
        labels: Sequence[int] | None = None,
        n: int | None = None,
        seed: int = 0,
        guidance: float = 1.0,
        batch_size: int = 256,
        first: int = 0,
        progress: Callable[[int, int], None] | None = None,
        **settings: Unpack[Settings],
    ) -> Drawn:
        """Draws images; image i depends on (seed, i) and its own prompt, not on the batch it is drawn in.

        Args:
            prompts, labels: one for each image; both may be given.
            n: number of images when neither is given.
            guidance: scale of classifier-free guidance, 1 for none.
            batch_size: images drawn at a time.
            first: the number of the first image, to continue an earlier call.
            progress: called with the solver's steps done and to be done, over all batches.
            settings: solver, steps, eta and so on, see :class:`raysde.sampler.Method`.

        Raises:
            ValueError: if the counts differ, the model cannot take what is given, or a setting is out of range.
        """
        count = counted(prompts, labels, n)
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        method = Method(**settings)
        parts, nfe, total = [], 0, method.steps * -(-count // batch_size)
        for number, start in enumerate(range(0, count, batch_size)):
            stop = min(count, start + batch_size)
            generators = [randomness.generator(seed, randomness.IMAGE, first + index) for index in range(start, stop)]
            drawn = sample(
                self.conditioned(  # type: ignore[arg-type]
                    None if prompts is None else prompts[start:stop],
                    None if labels is None else labels[start:stop],
                    stop - start,
                    guidance,
                ),
                self.sde,
                (stop - start, *self.spec.image),
                generator=generators,
                device=self.device,
                callback=_reported(progress, number * method.steps, total),
                **settings,
            )
            nfe = max(nfe, drawn.nfe)
            parts.append(self._pixels(drawn.x).cpu())
        return Drawn(torch.cat(parts), None if prompts is None else list(prompts), seed, nfe)

    def _pixels(self, x0: Tensor) -> Tensor:
        """uint8 images of what was drawn, through the autoencoder of a latent model."""
        if self.spec.latent is not None:
            return latent_space.decode(self.spec.latent, x0)
        return to_uint8(x0, *self.spec.data_range)

    def _need_pixels(self, what: str) -> None:
        if self.spec.latent is not None:
            raise ValueError(f"{what} is of pixels, and this model draws latents of {self.spec.latent.vae!r}")

    def log_prob(
        self,
        images: Tensor,
        *,
        prompts: Sequence[str] | None = None,
        labels: Sequence[int] | None = None,
        seed: int = 0,
        guidance: float = 1.0,
        divergence: likelihood.Divergence = "rademacher",
        probes: int = 4,
    ) -> likelihood.LogProb:
        """log-density in nats of uint8 images [B, C, H, W] mapped to the model's data range; see
        :func:`raysde.likelihood.log_prob`."""
        self._need_pixels("log_prob")
        return likelihood.log_prob(
            self.conditioned(prompts, labels, len(images), guidance),  # type: ignore[arg-type]
            to_float(images.to(self.device), *self.spec.data_range),
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
        labels: Sequence[int] | None = None,
        seed: int = 0,
        guidance: float = 1.0,
        repeats: int = 5,
        probes: int = 1,
    ) -> likelihood.BitsPerDim:
        """Bits per dimension of uint8 images [B, C, H, W]; see :func:`raysde.likelihood.bits_per_dim`."""
        self._need_pixels("bits_per_dim")
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
        labels: Sequence[int] | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        """The latents [B, C, H, W] of uint8 images; :meth:`decode` inverts it."""
        self._need_pixels("encode")
        score = self.conditioned(prompts, labels, len(images), guidance)
        return likelihood.encode(score, to_float(images.to(self.device), *self.spec.data_range), self.sde)  # type: ignore[arg-type]

    def decode(
        self,
        latents: Tensor,
        *,
        prompts: Sequence[str] | None = None,
        labels: Sequence[int] | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        """uint8 images of latents [B, C, H, W]."""
        self._need_pixels("decode")
        score = self.conditioned(prompts, labels, len(latents), guidance)
        return to_uint8(likelihood.decode(score, latents.to(self.device), self.sde), *self.spec.data_range).cpu()  # type: ignore[arg-type]

    def interpolate(
        self,
        first: Tensor,
        second: Tensor,
        weights: Sequence[float],
        *,
        prompts: Sequence[str] | None = None,
        labels: Sequence[int] | None = None,
    ) -> Tensor:
        """uint8 images [K, B, C, H, W] on the way from uint8 images ``first`` to ``second``, through their latents."""
        start, end = (self.encode(images, prompts=prompts, labels=labels) for images in (first, second))
        path = likelihood.interpolate(start, end, torch.tensor(weights))
        return torch.stack([self.decode(latents, prompts=prompts, labels=labels) for latents in path])

    def conditioned(
        self, prompts: Sequence[str] | None, labels: Sequence[int] | None, count: int, guidance: float
    ) -> Conditioned | Guided:
        """The score under prompts and labels, in evaluation mode."""
        model = self.score_model.eval()
        conditioner = model.conditioner
        plain = Conditioned(model, conditioner.encode(prompts, labels, count))
        if guidance == 1.0:
            return plain
        if conditioner.width is None:
            raise ValueError(f"guidance={guidance} was given, but the model is unconditional")
        # one row more, the null condition, as long as the others
        asked = None if prompts is None else [*prompts, ""]
        encoded = conditioner.encode(asked, None if labels is None else [*labels, -1], count + 1)
        return Guided(model, plain.encoded, encoded.rows(torch.full((count,), count)), guidance)


def counted(prompts: Sequence[str] | None, labels: Sequence[int] | None, n: int | None) -> int:
    """How many images are asked for.

    Raises:
        ValueError: if the counts differ, or there is none to draw.
    """
    given = [len(values) for values in (prompts, labels) if values is not None]
    count = n if n is not None else given[0] if given else 1
    if count < 1 or any(size != count for size in given):
        raise ValueError(f"n={n}, {given} prompts or labels: give one for each image, and at least one image")
    return count


def _reported(
    progress: Callable[[int, int], None] | None, before: int, total: int
) -> Callable[[int, Tensor], None] | None:
    """The sampler's callback that tells ``progress`` the steps done, ``before`` of them for earlier batches."""
    if progress is None:
        return None
    return lambda step, _: progress(before + step, total)
