"""A sampling method: its settings, each defined once with type, default, description and bounds.

The recipe's section ``sampling``, the options of the commands, the parameters of a served model and the search space of
``raysde tune-sampler`` are derived from the fields of :class:`Method`. torch is imported only when an SDE is given.
"""

import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast, get_args, get_origin

from raysde.io.near import did_you_mean
from raysde.sampling.solvers import SOLVERS, Corrector, Grid, Kind, Solver
from raysde.sampling.solvers.default import default_solver

if TYPE_CHECKING:
    from torch import Tensor

    from raysde.sde import SDE

CORRECTED = ("target_snr", "corrector_steps")
"""Settings that only correctors read."""


@dataclass(frozen=True)
class Setting:
    """One setting of a method: its description and its check.

    Attributes:
        name, default, meaning: name, default and description of the field of :class:`Method`.
        type: type of the field; it includes None where the solver supplies the default.
        least, most: inclusive bounds.
        above: exclusive lower bound.
    """

    name: str
    type: Any
    default: Any
    meaning: str
    least: float | None = None
    most: float | None = None
    above: float | None = None

    @property
    def kind(self) -> type:
        """Type of a given value: bool, int, float or str."""
        (found,) = [each for each in _union_members(self.type) if each is not type(None)]
        return str if get_origin(found) is Literal else cast(type, found)

    @property
    def choices(self) -> tuple[str, ...]:
        """Allowed values of a named setting; empty for a number."""
        if self.name == "solver":
            return tuple(SOLVERS)
        return tuple(
            name for each in _union_members(self.type) if get_origin(each) is Literal for name in get_args(each)
        )

    def check(self, value: Any) -> None:
        """Raise ValueError if a value is not among the choices, has another type, or is out of bounds."""
        if value is None and self.default is None:
            return
        if value not in (self.choices or (True, False)) if self.kind in (str, bool) else not self._holds(value):
            raise ValueError(self.describe_refusal(value))

    def _holds(self, value: Any) -> bool:
        """Return True if a value is a number within the bounds."""
        low = -math.inf if self.least is None else self.least
        high = math.inf if self.most is None else self.most
        if isinstance(value, str) or value is None or (self.kind is int and not float(value).is_integer()):
            return False
        return bool(low <= value <= high) and (self.above is None or bool(value > self.above))

    def describe_refusal(self, value: Any) -> str:
        """Return the error message for an invalid value."""
        shown, near = repr(value) if isinstance(value, str) else value, ""
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if self.choices:
            rule, near = f"be one of {', '.join(self.choices)}", did_you_mean(str(value), self.choices)
        elif self.kind is bool:
            rule = "be true or false"
        elif math.isinf(number):
            rule = "be finite"
        elif math.isnan(number) or (self.kind is int and not number.is_integer()):
            rule = "be a whole number" if self.kind is int else "be a number"
        else:
            rule = self.range
        return f"{self.name} must {rule}, got {shown}{near}"

    @property
    def range(self) -> str:
        """Bounds in words that follow "must"."""
        if self.above is not None:
            return "be positive" if self.above == 0 else f"be above {self.above:g}"
        if self.most is None:
            return "not be negative" if self.least == 0 else f"be at least {self.least:g}"
        assert self.least is not None
        if self.kind is float:
            return f"lie between {self.least:g} and {self.most:g}"
        *others, last = (str(number) for number in range(int(self.least), int(self.most) + 1))
        return f"be {', '.join(others)} or {last}"


def _union_members(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union type, or the type itself."""
    return get_args(hint) if get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def describe_field(meaning: str, **bounds: float) -> dict[str, Any]:
    """Return the metadata of a field of :class:`Method`.

    Args:
        meaning: one-line description for the user.
        bounds: ``least``, ``most`` and ``above`` of :class:`Setting`.
    """
    return {"meaning": meaning, **bounds}


@dataclass(frozen=True, kw_only=True)
class Method:
    """A sampling method: a solver with its settings, a time grid and a corrector.

    Each field's metadata describes it; see also :data:`SETTINGS`. ``solver`` is a key of ``SOLVERS`` and defaults to
    :func:`raysde.sampling.solvers.default.default_solver`.

    Raises:
        ValueError: naming a setting that is out of range, or that the solver does not read.
    """

    solver: Solver = field(
        default=None,  # type: ignore[assignment]  # until __post_init__ fills it in
        metadata=describe_field(
            "solver, see docs/choosing.md; the default is unipc, or heun with a corrector and for models that predate "
            "unipc"
        ),
    )
    steps: int = field(default=20, metadata=describe_field("number of solver steps; rk45 chooses its own", least=1))
    grid: Grid | None = field(
        default=None, metadata=describe_field("variable in which times are uniform; default: by solver and SDE")
    )
    rho: float = field(default=7.0, metadata=describe_field("exponent of the edm grid", above=0))
    corrector: Corrector | None = field(
        default=None,
        metadata=describe_field(
            "corrector after each step but the last; the default is langevin for solver pc, none for the others"
        ),
    )
    corrector_steps: int = field(default=1, metadata=describe_field("number of corrector steps at each time", least=0))
    target_snr: float = field(
        default=0.16,
        metadata=describe_field("corrector step size: 0.16 suits VE, 0.01 suits VP (Song et al. table 5)", above=0),
    )
    eta: float = field(
        default=0.0, metadata=describe_field("noise scale of ddim: 0 is deterministic, 1 ancestral", least=0, most=1)
    )
    order: int = field(default=3, metadata=describe_field("order of deis and unipc", least=1, most=3))
    churn: float = field(
        default=0.0,
        metadata=describe_field("noise that edm adds, over all steps (S_churn of Karras et al. 2022)", least=0),
    )
    churn_low: float = field(
        default=0.0, metadata=describe_field("lowest sigma / alpha at which edm adds noise (S_tmin)", least=0)
    )
    churn_high: float = field(
        default=float("inf"), metadata=describe_field("highest sigma / alpha at which edm adds noise (S_tmax)", least=0)
    )
    churn_noise: float = field(
        default=1.0, metadata=describe_field("standard deviation of the noise that edm adds (S_noise)", above=0)
    )
    rtol: float = field(default=1e-5, metadata=describe_field("relative tolerance of rk45", above=0))
    atol: float = field(default=1e-5, metadata=describe_field("absolute tolerance of rk45", above=0))
    denoise: bool = field(
        default=False, metadata=describe_field("return the predicted clean data, for one more evaluation (Tweedie)")
    )

    def __post_init__(self) -> None:
        if self.solver is None:
            object.__setattr__(self, "solver", default_solver(corrector=self.corrector))
        for name, each in SETTINGS.items():
            each.check(getattr(self, name))
        if self.churn_low > self.churn_high:
            raise ValueError(f"churn_low={self.churn_low} must not be above churn_high={self.churn_high}")
        if self.correction is not None and self.kind.remembers:
            raise ValueError(
                f"corrector {self.correction} cannot follow {self.solver}, a multistep or adaptive solver; "
                "choose a single-step solver, such as heun"
            )
        if self.solver == "none" and self.correction is None:
            raise ValueError("solver none takes no steps: choose a corrector")
        for name, each in SETTINGS.items():
            if (value := getattr(self, name)) != each.default and not self.reads(name):
                raise ValueError(f"{name}={value} has no effect with {self.solver}: {describe_reader(name)}")

    @property
    def kind(self) -> Kind:
        return SOLVERS[self.solver]

    def reads(self, name: str) -> bool:
        """Return True if a setting affects the result, at least on some SDE."""
        if name in CORRECTED:
            return self.solver == "pc" or self.corrector not in (None, "none")
        if name == "rho":
            return (self.grid or self.kind.grid) in (None, "edm")
        return not solvers_reading(name) or name in self.kind.settings

    @property
    def correction(self) -> str | None:
        """Name of the corrector; None without one."""
        if self.corrector is None:
            return "langevin" if self.solver == "pc" else None
        return None if self.corrector == "none" or self.corrector_steps == 0 else self.corrector

    @property
    def nfe(self) -> int | None:
        """Number of network evaluations per image; None for rk45, whose number depends on the image."""
        if self.solver == "rk45":
            return None
        corrected = self.steps if self.solver == "none" else self.steps - 1
        corrections = 0 if self.correction is None else corrected * self.corrector_steps
        return self.steps * self.kind.calls + corrections + int(self.denoise)

    def check(self, sde: "SDE") -> None:
        """Raise ValueError if the method is undefined on ``sde``."""
        if self.correction is not None and not sde.diffuses:
            raise ValueError(
                f"corrector {self.correction} is undefined on {type(sde).__name__}, a path between data and noise "
                "without a forward SDE: choose corrector none"
            )

    def grid_for(self, sde: "SDE") -> Grid:
        """Return the variable in which the grid's times are uniform."""
        return self.grid or self.kind.grid or cast(Grid, sde.grid)

    def times(self, sde: "SDE") -> "Tensor":
        """Return the time grid [steps + 1], falling, float64."""
        from raysde.sampling.solvers.grids import time_grid

        return time_grid(sde, self.steps, self.grid_for(sde), self.rho)

    def last_times(self, sde: "SDE", share: float) -> "Tensor":
        """Return the last ``share`` (0 to 1) of the time grid in its own variable, 1-D float64; see
        :func:`raysde.sampling.solvers.grids.last_grid_part`.
        """
        from raysde.sampling.solvers.grids import last_grid_part

        return last_grid_part(self.times(sde), sde, self.grid_for(sde), self.rho, share)

    def churn_of(self, steps: int) -> float:
        """Return the total churn of ``steps`` steps that each add as much noise as in a full run of this method."""
        return self.churn * steps / self.steps


SETTINGS: dict[str, Setting] = {
    each.name: Setting(each.name, hint, each.default, **each.metadata)
    for each, hint in zip(fields(Method), typing.get_type_hints(Method).values(), strict=True)
}
"""Every setting of a method by name."""


class Settings(TypedDict, total=False):
    """The keyword arguments of :class:`Method`, for type checkers, which cannot derive them."""

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


assert typing.get_type_hints(Settings) == typing.get_type_hints(Method)


def make_method(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments that are fields of :class:`Method`."""
    return {name: value for name, value in settings.items() if name in SETTINGS}


def no_setting(name: str, known: Iterable[str]) -> str:
    """Return the error message for an unknown setting, with the known ones and the nearest name."""
    return f"{name} is not a setting; the settings are {', '.join(known)}{did_you_mean(name, known)}"


GRIDDED = ("steps", "grid", "rho")
"""Settings of a time grid."""


def check_timed(settings: Mapping[str, Any], shown: Callable[[str], str] = str) -> None:
    """Raise ValueError if settings of a time grid are combined with explicit times.

    Args:
        shown: returns a setting's name as the user typed it.
    """
    if given := [shown(name) for name in GRIDDED if settings.get(name) is not None]:
        raise ValueError(f"{shown('times')} already fixes the steps: leave out {' and '.join(given)}")


def drop_grid_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings without those of a time grid, for explicit times."""
    return {name: value for name, value in settings.items() if name not in GRIDDED}


def select_readable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that the chosen solver, grid and corrector read.

    Raises:
        ValueError: if solver, grid and corrector are incompatible.
    """
    method = Method(**{name: settings[name] for name in ("solver", "grid", "corrector") if name in settings})
    return {name: value for name, value in settings.items() if method.reads(name)}


def solvers_reading(name: str) -> list[Solver]:
    """Return the solvers that read a setting; empty if all do."""
    return [solver for solver, kind in SOLVERS.items() if name in kind.settings]


def describe_reader(name: str) -> str:
    """Return a clause that names the methods which read a setting; empty if all do."""
    if name in CORRECTED:
        return "only correctors read it, such as solver=pc or corrector=langevin"
    if name == "rho":
        return "only grid=edm reads it"
    solvers = solvers_reading(name)
    return f"only solver={' or '.join(solvers)} reads it" if solvers else ""
