"""A trained model in use: images for prompts and class labels, one random stream for each image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from raysde import randomness
from raysde.guidance import Conditioned, Guided
from raysde.images import grid as image_grid
from raysde.images import save_png, to_uint8
from raysde.model import ModelSpec
from raysde.sampler import Grid, Solver, evaluations, sample
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
        solver: Solver = "heun",
        steps: int = 20,
        grid: Grid | None = None,
        guidance: float = 1.0,
        target_snr: float = 0.16,
        corrector_steps: int = 1,
        batch_size: int = 256,
        first: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Drawn:
        """Draws images; image i depends on (seed, i) and its own prompt, not on the batch it is drawn in.

        Args:
            prompts, labels: one for each image; both may be given.
            n: number of images when neither is given.
            solver, steps, grid, target_snr, corrector_steps: see :func:`raysde.sampler.sample`.
            guidance: scale of classifier-free guidance, 1 for none.
            batch_size: images drawn at a time.
            first: the number of the first image, to continue an earlier call.
            progress: called with the network evaluations done and to be done.

        Raises:
            ValueError: if the counts differ, the model cannot take what is given, or a setting is out of range.
        """
        given = [len(values) for values in (prompts, labels) if values is not None]
        count = n if n is not None else given[0] if given else 1
        if count < 1 or any(size != count for size in given):
            raise ValueError(f"n={n}, {given} prompts or labels: give one for each image, and at least one image")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        parts, done = [], 0
        nfe = evaluations(solver, steps, corrector_steps)
        total = nfe * -(-count // batch_size)
        for start in range(0, count, batch_size):
            stop = min(count, start + batch_size)
            generators = [randomness.generator(seed, randomness.IMAGE, first + index) for index in range(start, stop)]
            score = self.conditioned(
                None if prompts is None else prompts[start:stop],
                None if labels is None else labels[start:stop],
                stop - start,
                guidance,
            )
            drawn = sample(
                score,  # type: ignore[arg-type]
                self.sde,
                (stop - start, *self.spec.image),
                solver=solver,
                steps=steps,
                grid=grid,
                target_snr=target_snr,
                corrector_steps=corrector_steps,
                generator=generators,
                device=self.device,
                callback=_reported(progress, done, nfe, steps, total),
            )
            done += nfe
            parts.append(to_uint8(drawn.x, *self.spec.data_range).cpu())
        return Drawn(torch.cat(parts), None if prompts is None else list(prompts), seed, nfe)

    def conditioned(
        self, prompts: Sequence[str] | None, labels: Sequence[int] | None, count: int, guidance: float
    ) -> Conditioned | Guided:
        """The score under prompts and labels, in evaluation mode."""
        model = self.score_model.eval()
        conditioner = model.conditioner
        condition = conditioner.condition(prompts, labels, count).to(self.device)
        if guidance != 1.0 and conditioner.width is None:
            raise ValueError(f"guidance={guidance} was given, but the model is unconditional")
        if guidance == 1.0:
            return Conditioned(model, conditioner(condition))
        everywhere = torch.ones(count, dtype=torch.bool, device=self.device)
        null = condition.dropped(everywhere, conditioner.null().to(self.device))
        return Guided(model, conditioner(condition), conditioner(null), guidance)


def _reported(
    progress: Callable[[int, int], None] | None, done: int, nfe: int, steps: int, total: int
) -> Callable[[int, Tensor], None] | None:
    """The sampler's callback that tells ``progress`` the evaluations done, ``done`` of them by earlier batches."""
    if progress is None:
        return None
    return lambda step, _: progress(done + nfe * step // steps, total)
