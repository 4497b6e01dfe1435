"""How a model draws when nobody says: a solver, its settings and guidance, kept in the model's description."""

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from raysde.io.invalid import first_mistake
from raysde.models import method_fields
from raysde.sampling.method import SETTINGS, Method, make_method, no_setting, select_readable
from raysde.sampling.solvers import Solver
from raysde.sampling.solvers.default import default_solver

Interval = tuple[float, float]
"""The sigma / alpha above which and up to which a score is guided (Kynkaanniemi et al. 2024, arXiv 2404.07724)."""
GUIDANCE = ("guidance", "guidance_interval")
GUIDED = 2.0
"""The guidance scale where there is something to guide away from and nobody names another."""


def scale_refused(value: Any, name: str = "guidance") -> str:
    """Return the sentence for what is no guidance scale."""
    shown = repr(value) if isinstance(value, str) else value
    return f"{name} must be a number from 0 on, got {shown}; a negative prompt leads away from something"


def check_scale(scale: float | None, name: str = "guidance") -> None:
    """Raise ValueError unless a guidance scale is a number from 0 on."""
    if scale is not None and not 0.0 <= scale < math.inf:
        raise ValueError(scale_refused(scale, name))


Scale = Annotated[float, Field(ge=0.0, allow_inf_nan=False), method_fields.reword_mistakes(scale_refused)]
"""A guidance scale in a recipe, and in a model's description."""
KINDS: dict[str, Any] = {**method_fields.KINDS, "guidance": Scale, "guidance_interval": Interval | None}
"""Every setting that a model's description may hold, and its type."""


def check_interval(interval: Interval | None) -> None:
    """Raises ValueError unless the interval of guidance rises."""
    if interval is not None and not 0.0 <= interval[0] < interval[1]:
        raise ValueError(f"guidance_interval must be 0 <= low < high in sigma / alpha, got {interval}")


def check_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with values of their types, which go together, in the order of KINDS.

    Raises:
        ValueError: naming the setting that is unknown, of another type, out of range or infinite.
    """
    found = {name: convert_value(name, value) for name, value in settings.items()}
    Method(**make_method(found))
    check_interval(found.get("guidance_interval"))
    check_scale(found.get("guidance"))
    return {name: found[name] for name in KINDS if name in found}


def convert_value(name: str, value: Any) -> Any:
    """A value of a setting in its type.

    Raises:
        ValueError: if there is no such setting, or the value is of another type or infinite.
    """
    if name not in KINDS:
        raise ValueError(no_setting(name, KINDS))
    try:
        found = TypeAdapter(KINDS[name]).validate_python(value)
    except ValidationError as error:
        said = first_mistake(error)[1]
        raise ValueError(said if said.startswith(f"{name} must") else f"{name}: {said}, got {value!r}") from None
    parts = found if isinstance(found, tuple) else (found,)
    if any(isinstance(part, float) and not math.isfinite(part) for part in parts):
        raise ValueError(f"{name} must be finite, got {value!r}")
    return found


def complete_settings(own: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What is given, and a model's own settings where nothing is.

    Who names another solver than the model's own gets that solver as it is: steps, grid and the rest were chosen for
    the own one. Own settings that nothing reads beside what is given are left out: target_snr beside corrector=none.

    Raises:
        ValueError: if solver, grid and corrector do not go together.
    """
    foreign = "solver" in given and given["solver"] != own.get("solver")
    kept = {name: value for name, value in own.items() if not (foreign and name in SETTINGS)}
    merged = {**kept, **given}
    read = select_readable(make_method(merged))
    return {name: value for name, value in merged.items() if name in given or name in read or name not in SETTINGS}


def add_default_solver(settings: Mapping[str, Any], usual: Solver, *, resample: int = 0) -> dict[str, Any]:
    """Settings with a solver, where they name none the default of the model that draws.

    Args:
        usual: that default, see :class:`raysde.models.spec.ModelSpec`.
        resample: times that each step is taken again.
    """
    if settings.get("solver") is not None:
        return dict(settings)
    return {**settings, "solver": default_solver(usual, corrector=settings.get("corrector"), resample=resample)}


def resolve_settings(
    own: Mapping[str, Any],
    given: Mapping[str, Any],
    conditional: bool,
    *,
    usual: Solver,
    scale: float = 1.0,
    resample: int = 0,
) -> dict[str, Any]:
    """Return the settings that images are drawn by: those given, then the model's own, then everybody's defaults.

    The guidance scale is the first of these that there is:

    - the one given;
    - the model's own, if the images have prompts or labels, or something that they are guided away from;
    - :data:`GUIDED`, if they are guided away from a negative prompt, or from a guide model without a scale of its own;
    - ``scale``, if they have prompts or labels;
    - 1, no guidance.

    Args:
        own: settings of the model's description.
        given: keyword arguments of a model's ``sample``; a guidance that is None is not given. Arguments other than
            settings are returned as they are.
        conditional: True if the images have prompts or labels.
        usual: the model's default solver.
        scale: guidance scale of images with prompts or labels where nobody names one: 1 in Python, :data:`GUIDED` for
            commands, served models and evaluations.
        resample: times that each step is taken again.

    Raises:
        ValueError: if an interval of guidance is given without a guidance, or settings do not go together.
    """
    guided = conditional or any(given.get(name) is not None for name in ("negative", "autoguide"))
    kept = own if guided else {name: value for name, value in own.items() if name not in GUIDANCE}
    named = {name: value for name, value in given.items() if value is not None or name not in GUIDANCE}
    found = add_default_solver(complete_settings(kept, named), usual, resample=resample)
    apart = given.get("autoguidance") is not None
    away = given.get("negative") is not None or (given.get("autoguide") is not None and not apart)
    default = GUIDED if away else scale if conditional else 1.0
    if found.get("guidance_interval") is not None and default == 1.0 and "guidance" not in found and not apart:
        raise ValueError("guidance_interval has no effect at guidance 1: give guidance=2 or so")
    method = Method(**make_method(found))
    return {"guidance": default, "solver": method.solver, "steps": method.steps, **found}


def describe_overrides(
    own: Mapping[str, Any], given: Mapping[str, Any], conditional: bool, *, usual: Solver
) -> str | None:
    """Return what is given in place of a model's own settings, for people; None if it draws as it does without.

    Args:
        conditional, usual: see :func:`resolve_settings`.
    """
    named = {name: value for name, value in sorted(given.items()) if name != "batch_size"}
    drawn, alone = (resolve_settings(own, each, conditional, usual=usual, scale=GUIDED) for each in (named, {}))
    return None if drawn == alone else describe_settings(named)


def describe_settings(settings: Mapping[str, Any]) -> str:
    """Settings for people: ``solver=unipc steps=10 guidance=2 guidance_interval=0.2:5``."""
    return " ".join(f"{name}={_format_value(value)}" for name, value in settings.items())


def _format_value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ":".join(_format_value(part) for part in value)
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
