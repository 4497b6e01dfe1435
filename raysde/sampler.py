"""From noise to data: a time grid, a predictor, a corrector, and a count of network evaluations.

Needs no network of ours: ``sample(score, sde, shape)`` takes any callable ``score(x_t, t)``, or an object with a method
of that name.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from raysde.sde import SDE, Score
from raysde.solvers.correctors import CORRECTORS, mean_norm, own_norms
from raysde.solvers.predictors import PREDICTORS, Noise

Solver = Literal["euler_maruyama", "pc", "reverse_diffusion", "heun"]
Grid = Literal["time", "log_snr"]
RandomSource = torch.Generator | Sequence[torch.Generator] | None
"""One generator for the batch, one for each image, or torch's own."""


@dataclass(frozen=True)
class Method:
    """A predictor and, after each of its steps but the last, a corrector."""

    predictor: str
    corrector: str | None = None


SOLVERS: dict[Solver, Method] = {
    "euler_maruyama": Method("euler_maruyama"),
    "reverse_diffusion": Method("reverse_diffusion"),
    "pc": Method("reverse_diffusion", "langevin"),
    "heun": Method("heun"),
}


@dataclass(frozen=True)
class Samples:
    """What a sampler made: x of the shape asked for, and nfe, the evaluations of the score for each image."""

    x: Tensor
    nfe: int


def time_grid(sde: SDE, steps: int, grid: Grid) -> Tensor:
    """steps + 1 times from 1 down to the SDE's sample floor, float64: uniform in t, or in log-SNR.

    Raises:
        ValueError: if ``steps`` is below 1 or the grid has no such name.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    ends = torch.tensor([1.0, sde.sample_floor], dtype=torch.float64)
    if grid == "time":
        return torch.linspace(1.0, sde.sample_floor, steps + 1, dtype=torch.float64)
    if grid != "log_snr":
        raise ValueError(f"grid must be 'time' or 'log_snr', got {grid!r}")
    first, last = sde.log_snr(ends).tolist()
    times = sde.time_at(torch.linspace(first, last, steps + 1, dtype=torch.float64))
    times[0], times[-1] = ends
    return times


def noise_from(source: RandomSource) -> Noise:
    """Standard normal noise from one generator for the whole batch, or from one for each image."""
    if source is None or isinstance(source, torch.Generator):
        return lambda x: torch.randn(x.shape, generator=source, device=x.device, dtype=x.dtype)

    def rows(x: Tensor) -> Tensor:
        if len(source) != len(x):
            raise ValueError(f"{len(source)} generators were given for {len(x)} images")
        drawn = [torch.randn(x.shape[1:], generator=g, device=g.device, dtype=x.dtype) for g in source]
        return torch.stack(drawn).to(x.device)

    return rows


def method_of(solver: str) -> Method:
    """The method called ``solver``.

    Raises:
        ValueError: if there is none.
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver must be one of {', '.join(SOLVERS)}, got {solver!r}")
    return SOLVERS[solver]


def evaluations(solver: Solver, steps: int, corrector_steps: int = 1) -> int:
    """How often a solver asks for the score, for each image.

    Raises:
        ValueError: if the solver has no such name.
    """
    method = method_of(solver)
    corrections = 0 if method.corrector is None else (steps - 1) * corrector_steps
    return steps * PREDICTORS[method.predictor].nfe_per_step + corrections


@torch.no_grad()
def sample(
    score: Score,
    sde: SDE,
    shape: Sequence[int],
    *,
    solver: Solver = "heun",
    steps: int = 20,
    grid: Grid | None = None,
    target_snr: float = 0.16,
    corrector_steps: int = 1,
    generator: RandomSource = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    callback: Callable[[int, Tensor], None] | None = None,
) -> Samples:
    """Draws from the model whose score is given.

    Args:
        score: ``score(x_t, t)`` with x_t of ``shape`` and t of shape [B]; or an object with such a method.
        shape: of the result, batch first.
        solver: a name of ``SOLVERS``.
        steps: of the predictor.
        grid: "time" or "log_snr"; by default the solver's own.
        target_snr: the corrector's r (Song et al. table 5: .16 for VE, .01 for VP).
        corrector_steps: corrector steps at each time.
        generator: one for the batch or one for each image.
        callback: called with the number of steps done and the current x.

    Raises:
        ValueError: for an unknown solver or grid, or steps below 1.
    """
    method = method_of(solver)
    if corrector_steps < 0:
        raise ValueError(f"corrector_steps must not be negative, got {corrector_steps}")
    score = getattr(score, "score", score)
    predictor = PREDICTORS[method.predictor]
    times = time_grid(sde, steps, grid or predictor.grid)  # type: ignore[arg-type]
    times = times.to(device)
    noise = noise_from(generator)
    # images with streams of their own must not meet in a batch mean
    norms = mean_norm if generator is None or isinstance(generator, torch.Generator) else own_norms
    x = sde.prior_std * noise(torch.empty(tuple(shape), device=device, dtype=dtype))
    mean = x
    for index in range(steps):
        t, s = times[index], times[index + 1]
        x, mean = predictor.step(score, sde, x, t, s, noise)
        if method.corrector is not None and index + 1 < steps:
            for _ in range(corrector_steps):
                x = CORRECTORS[method.corrector](score, sde, x, s, t, target_snr, noise, norms)
        if callback is not None:
            callback(index + 1, x)
    # the last step's noise would only blur the result (Song et al. appendix G)
    return Samples(mean, evaluations(solver, steps, corrector_steps))
