"""From noise to data: a time grid, a solver, a corrector, and a count of network evaluations.

Needs no network of ours: ``sample(score, sde, shape)`` takes any callable ``score(x_t, t)``, or an object with a method
of that name.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Literal, TypedDict, Unpack, cast

import torch
from torch import Tensor

from raysde.io.near import did_you_mean
from raysde.rng import RandomSource, noise_from
from raysde.sampling.solvers import SOLVERS, Kind, Solver
from raysde.sampling.solvers.adaptive import probability_flow
from raysde.sampling.solvers.correctors import CORRECTORS, Norms, mean_norm, own_norms
from raysde.sampling.solvers.default import default_solver
from raysde.sampling.solvers.grids import Grid, checked, last_part, time_grid
from raysde.sampling.solvers.trajectory import Stepper, Walk
from raysde.sde import SDE, Score

Corrector = Literal["langevin", "annealed_langevin", "none"]
Project = Callable[[Tensor, float], Tensor]
"""``project(x, t)``: x at time t with a part of it replaced, of the same shape."""
Callback = Callable[[int, Tensor], None]
CORRECTED = ("target_snr", "corrector_steps")
"""Settings of correctors."""
OWN = {name for kind in SOLVERS.values() for name in kind.settings}
"""Settings of single solvers."""


class Settings(TypedDict, total=False):
    """The keyword arguments that choose a :class:`Method`."""

    solver: Solver
    steps: int
    grid: Grid | None
    rho: float
    corrector: Corrector | None
    corrector_steps: int
    target_snr: float
    eta: float
    order: int
    churn: float
    churn_low: float
    churn_high: float
    churn_noise: float
    rtol: float
    atol: float
    denoise: bool


@dataclass(frozen=True, kw_only=True)
class Method:
    """How to sample.

    Attributes:
        solver: a name of ``SOLVERS``; left out, see :func:`raysde.sampling.solvers.default.default_solver`.
        steps: of the solver; rk45 chooses its own.
        grid: time, log_snr, edm or quadratic; None for what suits the solver and the SDE.
        rho: of the edm grid.
        corrector: langevin, annealed_langevin or none, after each step but the last; None for the solver's own, which
            is langevin for pc and none for the others.
        corrector_steps: corrector steps at each time.
        target_snr: the corrector's r (Song et al. table 5: .16 for VE, .01 for VP).
        eta: of ddim: 0 is deterministic, 1 ancestral.
        order: of deis and unipc, at most 3.
        churn, churn_low, churn_high, churn_noise: of edm (S_churn, S_tmin, S_tmax, S_noise of Karras et al. 2022; the
            bounds are on sigma / alpha).
        rtol, atol: of rk45.
        denoise: whether to end with the predicted clean data at the floor, for one more evaluation (Tweedie).

    Raises:
        ValueError: naming the setting that is out of range, or that its solver would not read.
    """

    solver: Solver = None  # type: ignore[assignment]  # until __post_init__ fills it in
    steps: int = 20
    grid: Grid | None = None
    rho: float = 7.0
    corrector: Corrector | None = None
    corrector_steps: int = 1
    target_snr: float = 0.16
    eta: float = 0.0
    order: int = 3
    churn: float = 0.0
    churn_low: float = 0.0
    churn_high: float = float("inf")
    churn_noise: float = 1.0
    rtol: float = 1e-5
    atol: float = 1e-5
    denoise: bool = False

    def __post_init__(self) -> None:
        if self.solver is None:
            object.__setattr__(self, "solver", default_solver(corrector=self.corrector))
        if self.solver not in SOLVERS:
            near = did_you_mean(self.solver, SOLVERS)
            raise ValueError(f"solver must be one of {', '.join(SOLVERS)}, got {self.solver!r}{near}")
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if self.corrector not in (None, "none", *CORRECTORS):
            near = did_you_mean(str(self.corrector), ("none", *CORRECTORS))
            raise ValueError(f"corrector must be one of none, {', '.join(CORRECTORS)}, got {self.corrector!r}{near}")
        if self.corrector_steps < 0:
            raise ValueError(f"corrector_steps must not be negative, got {self.corrector_steps}")
        if not 0.0 <= self.eta <= 1.0:
            raise ValueError(f"eta must lie between 0 and 1, got {self.eta}")
        if not 1 <= self.order <= 3:
            raise ValueError(f"order must be 1, 2 or 3, got {self.order}")
        for name in ("target_snr", "rho", "rtol", "atol", "churn_noise"):
            if getattr(self, name) <= 0.0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.churn < 0.0 or not 0.0 <= self.churn_low <= self.churn_high:
            raise ValueError("churn must not be negative, and churn_low must lie between 0 and churn_high")
        if self.correction is not None and self.kind.remembers:
            raise ValueError(f"corrector {self.correction} cannot follow {self.solver}, whose steps use earlier ones")
        if self.solver == "none" and self.correction is None:
            raise ValueError("solver none moves nothing: give it a corrector")
        for field in fields(self):
            if (value := getattr(self, field.name)) != field.default and not self.reads(field.name):
                raise ValueError(f"{field.name}={value} changes nothing with {self.solver}: {reader(field.name)}")

    @property
    def kind(self) -> Kind:
        return SOLVERS[self.solver]

    def reads(self, name: str) -> bool:
        """Whether a setting changes anything, with some SDE at least."""
        if name in CORRECTED:
            return self.solver == "pc" or self.corrector not in (None, "none")
        if name == "rho":
            return (self.grid or self.kind.grid) in (None, "edm")
        return name not in OWN or name in self.kind.settings

    @property
    def correction(self) -> str | None:
        """The corrector's name, if there is one."""
        if self.corrector is None:
            return "langevin" if self.solver == "pc" else None
        return None if self.corrector == "none" or self.corrector_steps == 0 else self.corrector

    @property
    def nfe(self) -> int | None:
        """Network evaluations for each image; None for rk45, which decides as it goes."""
        if self.solver == "rk45":
            return None
        corrected = self.steps if self.solver == "none" else self.steps - 1
        corrections = 0 if self.correction is None else corrected * self.corrector_steps
        return self.steps * self.kind.calls + corrections + int(self.denoise)

    def check(self, sde: SDE) -> None:
        """Raises ValueError if the method is undefined for ``sde``."""
        if self.correction is not None and not sde.diffuses:
            raise ValueError(
                f"corrector {self.correction} is undefined on {type(sde).__name__}, a path between data and noise "
                "without a forward SDE: choose corrector none"
            )

    def grid_for(self, sde: SDE) -> Grid:
        """What the times are uniform in."""
        return self.grid or self.kind.grid or cast(Grid, sde.grid)

    def times(self, sde: SDE) -> Tensor:
        """The grid, float64."""
        return time_grid(sde, self.steps, self.grid_for(sde), self.rho)

    def last_times(self, sde: SDE, share: float) -> Tensor:
        """The last ``share`` of the grid in its own variable, float64; see
        :func:`raysde.sampling.solvers.grids.last_part`."""
        return last_part(self.times(sde), sde, self.grid_for(sde), self.rho, share)

    def churn_of(self, steps: int) -> float:
        """Return the churn of ``steps`` of this method's steps, each with as much noise as it adds in a whole walk."""
        return self.churn * steps / self.steps


def readable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a method's settings that their solver, grid and corrector read.

    Raises:
        ValueError: if these three do not go together.
    """
    method = Method(**{name: settings[name] for name in ("solver", "grid", "corrector") if name in settings})
    return {name: value for name, value in settings.items() if method.reads(name)}


def reader(name: str) -> str:
    """Who reads a setting that others do not, for people."""
    if name in CORRECTED:
        return "it is of correctors, such as solver=pc or corrector=langevin"
    if name == "rho":
        return "it is of grid=edm"
    solvers = [solver for solver, kind in SOLVERS.items() if name in kind.settings]
    return f"it is of solver={' or '.join(solvers)}"


@dataclass(frozen=True)
class Samples:
    """What a sampler made: x of the shape asked for, and nfe, the evaluations of the score for each image."""

    x: Tensor
    nfe: int


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
    """Draws from the model whose score is given.

    Args:
        score: ``score(x_t, t)`` with x_t of ``shape`` and t of shape [B]; or an object with such a method.
        shape: of the result, batch first.
        generator: one for the batch or one for each image.
        times: a falling grid of your own, instead of ``steps`` and ``grid``.
        start: x at the first time, instead of a draw from the prior.
        project: applied to x at the first time and after every step and corrector step, at the time it has come to; but
            not to the noise-free end. rk45 then goes from time to time of the grid.
        resample: how often each step but the last is undone by the forward process and taken again, which brings what
            ``project`` replaced and the rest together (Lugmayr et al. 2022, arXiv 2201.09865, algorithm 1).
        callback: called with the number of steps done and the current x.
        settings: see :class:`Method`.

    Raises:
        ValueError: if a setting is out of range, undefined for the SDE or the solver, or the times leave its domain.
    """
    if times is not None:
        times = checked(times, sde)
        settings["steps"] = len(times) - 1
    if settings.get("solver") is None:
        settings["solver"] = default_solver(corrector=settings.get("corrector"), resample=resample)
    method = Method(**settings)
    method.check(sde)
    check_resample(resample, method)
    noise = noise_from(generator)
    walk = Walk(getattr(score, "score", score), sde, method.times(sde) if times is None else times, noise)
    x = sde.prior_std * noise(torch.empty(tuple(shape), device=device, dtype=dtype)) if start is None else start
    if x.shape != torch.Size(shape):
        raise ValueError(f"start has shape {tuple(x.shape)}, not {tuple(shape)}")
    # images with streams of their own must not meet in a batch mean
    norms = mean_norm if generator is None or isinstance(generator, torch.Generator) else own_norms
    if project is not None:
        x = project(x, walk.times[0])
    if method.solver == "rk45":
        x = _adaptive(walk, x, method, project, callback)
    else:
        x = _walked(walk, _whole_step(walk, method, norms, project or _untouched), x, resample, callback)
    if method.denoise:
        x = walk.x0(x, len(walk.times) - 1)
    return Samples(x, walk.nfe)


def check_resample(resample: int, method: Method) -> None:
    """Guards the number of times that a step is taken again.

    Raises:
        ValueError: if it is negative, or the solver cannot take a step again.
    """
    if resample < 0:
        raise ValueError(f"resample must not be negative, got {resample}")
    if resample and (method.kind.remembers or method.solver == "none"):
        raise ValueError(f"resample cannot repeat steps of {method.solver}: choose a solver without a memory")


def _untouched(x: Tensor, t: float) -> Tensor:
    return x


def _whole_step(walk: Walk, method: Method, norms: Norms, project: Project) -> Stepper:
    """The solver's step with what follows it at the new time: corrector steps, and the projection after each."""
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


def _walked(walk: Walk, step: Stepper, x: Tensor, resample: int, callback: Callback | None) -> Tensor:
    """The end of the walk, without the last step's noise, which would only blur it (Song et al. appendix G)."""
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


def _adaptive(walk: Walk, x: Tensor, method: Method, project: Project | None, callback: Callback | None) -> Tensor:
    """The probability flow by rk45, each image with its own steps, in one piece unless something is projected."""
    stops = [walk.times[0], walk.times[-1]] if project is None else walk.times
    for left, (start, end) in zip(reversed(range(len(stops) - 1)), pairwise(stops), strict=True):
        x, nfe = probability_flow(walk.ask, walk.sde, x, start, end, rtol=method.rtol, atol=method.atol)
        walk.nfe += nfe
        if project is not None and left:
            x = project(x, end)
        if callback is not None:
            callback(len(walk.times) - 1 - left, x)
    return x
