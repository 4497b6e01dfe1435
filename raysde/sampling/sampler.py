"""Sampling: a time grid, a solver, a corrector, and a count of network evaluations.

``sample(score, sde, shape)`` takes any callable ``score(x_t, t)``, or an object with such a method.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Unpack

import torch
from torch import Tensor

from raysde.io.keywords import own_keywords
from raysde.rng import RandomSource, noise_from
from raysde.sampling.method import Method, Settings, check_timed
from raysde.sampling.score import check_score_values
from raysde.sampling.solvers.adaptive import probability_flow
from raysde.sampling.solvers.correctors import CORRECTORS, Norms, mean_norm, own_norms
from raysde.sampling.solvers.default import default_solver
from raysde.sampling.solvers.grids import check_times
from raysde.sampling.solvers.trajectory import Stepper, Walk
from raysde.sde import SDE, Score

Project = Callable[[Tensor, float], Tensor]
"""A callable ``project(x, t)`` that replaces a part of x [B, ...] at time t and returns the same shape."""
Callback = Callable[[int, Tensor], None]
"""A callable ``callback(step, x)``, called with the number of steps done and the current x [B, ...]."""


@dataclass(frozen=True)
class Samples:
    """The result of a sampler: x [B, ...], as requested, and nfe, the number of score evaluations per image."""

    x: Tensor
    nfe: int


@own_keywords
@torch.no_grad()
def sample(
    score: Score,
    sde: SDE,
    shape: Sequence[int],
    *,
    generator: RandomSource = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    times: Tensor | None = None,
    start: Tensor | None = None,
    project: Project | None = None,
    resample: int = 0,
    callback: Callback | None = None,
    **settings: Unpack[Settings],
) -> Samples:
    """Draw samples from the model with the given score.

    Args:
        score: ``score(x_t, t)`` with x_t of ``shape`` and t of shape [B]; or an object with such a method.
        shape: shape of the result, batch first.
        generator: one for the batch or one for each image.
        times: explicit falling times, [steps + 1], instead of ``steps``, ``grid`` and ``rho``.
        start: x at the first time, of shape ``shape``, instead of a draw from the prior.
        project: called on x at the first time and after every step and corrector step, with the new time; not on the
            noise-free end. rk45 then stops at each time of the grid.
        resample: number of times that each step but the last is undone by the forward process and repeated, which
            harmonises what ``project`` replaced with the rest (Lugmayr et al. 2022, arXiv 2201.09865, algorithm 1).
        callback: called after each step with the number of steps done and the current x.
        settings: fields of :class:`raysde.sampling.method.Method`.

    Raises:
        ValueError: if a setting is out of range, undefined for the SDE or the solver, or the times leave its domain.
    """
    if times is not None:
        check_timed(settings)
        times = check_times(times, sde)
        settings["steps"] = len(times) - 1
    if settings.get("solver") is None:
        settings["solver"] = default_solver(corrector=settings.get("corrector"), resample=resample)
    method = Method(**settings)
    method.check(sde)
    check_resample(resample, method)
    noise = noise_from(generator)
    walk = Walk(check_score_values(score), sde, method.times(sde) if times is None else times, noise)
    x = sde.prior_std * noise(torch.empty(tuple(shape), device=device, dtype=dtype)) if start is None else start
    if x.shape != torch.Size(shape):
        raise ValueError(
            f"start has shape {tuple(x.shape)}, not {tuple(shape)}; give a start of the shape of the samples"
        )
    # a batch mean would make images with their own random streams depend on each other
    norms = mean_norm if generator is None or isinstance(generator, torch.Generator) else own_norms
    if project is not None:
        x = project(x, walk.times[0])
    if method.solver == "rk45":
        x = _integrate_adaptively(walk, x, method, project, callback)
    else:
        x = _walk_grid(walk, _make_step(walk, method, norms, project or _keep_state), x, resample, callback)
    if method.denoise:
        x = walk.x0(x, len(walk.times) - 1)
    return Samples(x, walk.nfe)


def check_resample(resample: int, method: Method) -> None:
    """Check that the solver can repeat steps ``resample`` times.

    Raises:
        ValueError: if ``resample`` is negative, or the solver cannot repeat a step.
    """
    if resample < 0:
        raise ValueError(f"resample must not be negative, got {resample}")
    if resample and (method.kind.remembers or method.solver == "none"):
        raise ValueError(f"resample cannot repeat steps of {method.solver}: choose a single-step solver of fixed steps")


def _keep_state(x: Tensor, t: float) -> Tensor:
    return x


def _make_step(walk: Walk, method: Method, norms: Norms, project: Project) -> Stepper:
    """Return the solver's step, followed by projection and corrector steps at the new time."""
    step = method.kind.start(walk, **{name: getattr(method, name) for name in method.kind.settings})

    def whole(x: Tensor, index: int) -> tuple[Tensor, Tensor]:
        x, mean = step(x, index)
        x = project(x, walk.times[index + 1])
        if method.correction is not None and (index + 2 < len(walk.times) or method.solver == "none"):
            for _ in range(method.corrector_steps):
                x, mean = CORRECTORS[method.correction](walk, x, index + 1, method.target_snr, norms)
                x = project(x, walk.times[index + 1])
        return x, mean

    return whole


def _walk_grid(walk: Walk, step: Stepper, x: Tensor, resample: int, callback: Callback | None) -> Tensor:
    """Walk the grid and return the end without the last step's noise, which only blurs (Song et al. appendix G)."""
    steps = len(walk.times) - 1
    mean = x
    for index in range(steps):
        x, mean = step(x, index)
        for _ in range(resample if index + 1 < steps else 0):
            a, b2 = walk.transition(index)
            x, mean = step(a * x + math.sqrt(b2) * walk.noise(x), index)
        if callback is not None:
            callback(index + 1, x)
    return mean


def _integrate_adaptively(
    walk: Walk, x: Tensor, method: Method, project: Project | None, callback: Callback | None
) -> Tensor:
    """Integrate the probability flow by rk45 with step sizes per image, in one piece unless ``project`` is given."""
    stops = [walk.times[0], walk.times[-1]] if project is None else walk.times
    for left, (start, end) in zip(reversed(range(len(stops) - 1)), pairwise(stops), strict=True):
        x, nfe = probability_flow(walk.ask, walk.sde, x, start, end, rtol=method.rtol, atol=method.atol)
        walk.nfe += nfe
        if project is not None and left:
            x = project(x, end)
        if callback is not None:
            callback(len(walk.times) - 1 - left, x)
    return x
