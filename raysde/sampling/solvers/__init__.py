"""The solvers by name: import path and properties of each.

A new solver is one module and its line in ``SOLVERS``. A solver's module, and torch with it, is imported only when the
solver takes its first step, so that the command line can list the solvers quickly.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from raysde.sampling.solvers.trajectory import Stepper, Walk

Solver = str
"""A key of ``SOLVERS``."""
Grid = Literal["time", "log_snr", "edm", "quadratic"]
Corrector = Literal["none", "langevin", "annealed_langevin"]


@dataclass(frozen=True)
class Kind:
    """The properties of a solver.

    Attributes:
        place: ``module:name`` of a class made from a walk, with steps (x, index), or of a function (walk, x, index).
        calls: network evaluations per step.
        grid: default time grid; None for the SDE's own.
        remembers: True if a step uses earlier ones, so that correctors and resampling must not move x in between.
        settings: fields of :class:`raysde.sampling.method.Method` that the solver reads, by name.
        fixed: further keyword arguments.
    """

    place: str
    calls: int = 1
    grid: Grid | None = "log_snr"
    remembers: bool = False
    settings: tuple[str, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def start(self, walk: "Walk", **settings: Any) -> "Stepper":
        """Return the solver's step function for a walk.

        Args:
            settings: values of the fields named in ``settings``.
        """
        module, _, name = self.place.partition(":")
        found, given = getattr(importlib.import_module(module), name), {**self.fixed, **settings}
        stepper: Stepper = found(walk, **given) if isinstance(found, type) else partial(found, walk, **given)
        return stepper


_HERE = "raysde.sampling.solvers"
_DPMPP = f"{_HERE}.multistep:DpmPlusPlus"
SOLVERS: dict[Solver, Kind] = {
    "euler_maruyama": Kind(f"{_HERE}.predictors:euler_maruyama", grid=None),
    "reverse_diffusion": Kind(f"{_HERE}.predictors:reverse_diffusion", grid=None),
    "ancestral": Kind(f"{_HERE}.predictors:ancestral", grid=None),
    "none": Kind(f"{_HERE}.predictors:none", calls=0, grid=None),
    "pc": Kind(f"{_HERE}.predictors:reverse_diffusion", grid=None),
    "euler": Kind(f"{_HERE}.ode:euler"),
    "heun": Kind(f"{_HERE}.ode:heun", calls=2),
    "rk4": Kind(f"{_HERE}.ode:rk4", calls=4),
    "rk45": Kind(f"{_HERE}.adaptive:probability_flow", remembers=True, settings=("rtol", "atol")),
    "edm": Kind(
        f"{_HERE}.ode:EdmHeun", calls=2, grid="edm", settings=("churn", "churn_low", "churn_high", "churn_noise")
    ),
    "ddim": Kind(f"{_HERE}.multistep:Ddim", settings=("eta",)),
    "dpmpp_2m": Kind(_DPMPP, remembers=True, fixed={"order": 2, "stochastic": False}),
    "dpmpp_3m": Kind(_DPMPP, remembers=True, fixed={"order": 3, "stochastic": False}),
    "dpmpp_2m_sde": Kind(_DPMPP, remembers=True, fixed={"order": 2, "stochastic": True}),
    "dpmpp_3m_sde": Kind(_DPMPP, remembers=True, fixed={"order": 3, "stochastic": True}),
    "deis": Kind(f"{_HERE}.multistep:Deis", remembers=True, settings=("order",)),
    "unipc": Kind(f"{_HERE}.multistep:UniPC", remembers=True, settings=("order",)),
}
"""All solvers by name."""
