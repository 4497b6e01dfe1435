"""Steps of the reverse process: predictors, correctors, ODE steps and multistep methods, and their grids.

``SOLVERS`` says of each what the sampler must know.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from raysde.sampling.solvers import multistep, ode, predictors
from raysde.sampling.solvers.grids import Grid
from raysde.sampling.solvers.trajectory import Stepper, Walk

Solver = Literal[
    "euler_maruyama",
    "reverse_diffusion",
    "ancestral",
    "none",
    "pc",
    "euler",
    "heun",
    "rk4",
    "rk45",
    "edm",
    "ddim",
    "dpmpp_2m",
    "dpmpp_3m",
    "dpmpp_2m_sde",
    "dpmpp_3m_sde",
    "deis",
    "unipc",
]


@dataclass(frozen=True)
class Kind:
    """What the sampler must know of a solver.

    Attributes:
        start: makes its steps for a walk, from the settings (eta and so on) named in ``settings``.
        calls: network evaluations of one step.
        grid: the grid it likes; None leaves that to the SDE.
        remembers: whether a step uses earlier ones, so that nothing else may move x in between.
        settings: what of a method it reads.
    """

    start: Callable[..., Stepper]
    calls: int = 1
    grid: Grid | None = "log_snr"
    remembers: bool = False
    settings: tuple[str, ...] = ()


def _stateless(step: Callable[..., Any]) -> Callable[[Walk], Stepper]:
    return lambda walk: partial(step, walk)


def _edm(walk: Walk, churn: float, churn_low: float, churn_high: float, churn_noise: float) -> Stepper:
    return ode.EdmHeun(walk, churn, churn_low, churn_high, churn_noise)


SOLVERS: dict[Solver, Kind] = {
    "euler_maruyama": Kind(_stateless(predictors.euler_maruyama), grid=None),
    "reverse_diffusion": Kind(_stateless(predictors.reverse_diffusion), grid=None),
    "ancestral": Kind(_stateless(predictors.ancestral), grid=None),
    "none": Kind(_stateless(predictors.none), calls=0, grid=None),
    "pc": Kind(_stateless(predictors.reverse_diffusion), grid=None),
    "euler": Kind(_stateless(ode.euler)),
    "heun": Kind(_stateless(ode.heun), calls=2),
    "rk4": Kind(_stateless(ode.rk4), calls=4),
    "rk45": Kind(_stateless(predictors.none), remembers=True, settings=("rtol", "atol")),
    "edm": Kind(_edm, calls=2, grid="edm", settings=("churn", "churn_low", "churn_high", "churn_noise")),
    "ddim": Kind(multistep.Ddim, settings=("eta",)),
    "dpmpp_2m": Kind(partial(multistep.DpmPlusPlus, order=2, stochastic=False), remembers=True),
    "dpmpp_3m": Kind(partial(multistep.DpmPlusPlus, order=3, stochastic=False), remembers=True),
    "dpmpp_2m_sde": Kind(partial(multistep.DpmPlusPlus, order=2, stochastic=True), remembers=True),
    "dpmpp_3m_sde": Kind(partial(multistep.DpmPlusPlus, order=3, stochastic=True), remembers=True),
    "deis": Kind(multistep.Deis, remembers=True, settings=("order",)),
    "unipc": Kind(multistep.UniPC, remembers=True, settings=("order",)),
}
"""Every solver by name."""
