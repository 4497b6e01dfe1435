"""A model's default sampling settings: solver, its settings and guidance, stored in the model's description."""

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
"""The range of sigma / alpha, lower bound excluded, with guidance (Kynkaanniemi et al. 2024, arXiv 2404.07724)."""
GUIDANCE = ("guidance", "guidance_interval")
GUIDED = 2.0
"""Default guidance scale if there is a negative prompt or guide model."""


def scale_refused(value: Any, name: str = "guidance") -> str:
    """Return the error message for an invalid guidance scale."""
    shown = repr(value) if isinstance(value, str) else value
    return f"{name} must be a number of at least 0, got {shown}; use a negative prompt to guide away from something"


def check_scale(scale: float | None, name: str = "guidance") -> None:
    """Raise ValueError unless a guidance scale is None or a finite number of at least 0."""
    if scale is not None and not 0.0 <= scale < math.inf:
        raise ValueError(scale_refused(scale, name))


Scale = Annotated[float, Field(ge=0.0, allow_inf_nan=False), method_fields.reword_mistakes(scale_refused)]
"""The pydantic type of a guidance scale, in recipes and model descriptions."""
KINDS: dict[str, Any] = {**method_fields.KINDS, "guidance": Scale, "guidance_interval": Interval | None}
"""Every setting that a model's description may hold, and its pydantic type."""


def check_interval(interval: Interval | None) -> None:
    """Raise ValueError unless a guidance interval is None or satisfies 0 <= low < high."""
    if interval is not None and not 0.0 <= interval[0] < interval[1]:
        raise ValueError(f"guidance_interval must be 0 <= low < high in sigma / alpha, got {interval}")


def check_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with values converted to their types, in the order of KINDS.

    Raises:
        ValueError: naming the setting that is unknown, out of range, infinite or of the wrong type, or has no effect.
    """
    found = {name: convert_value(name, value) for name, value in settings.items()}
    Method(**make_method(found))
    check_interval(found.get("guidance_interval"))
    check_scale(found.get("guidance"))
    return {name: found[name] for name in KINDS if name in found}


def convert_value(name: str, value: Any) -> Any:
    """Return a setting's value converted to its type.

    Raises:
        ValueError: if there is no such setting, or the value has the wrong type or is infinite.
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
    """Return the given settings, completed from the model's own settings.

    If the caller selects a different solver, the model's tuned settings for its own solver are not applied. Settings of
    the model that have no effect beside the given ones are left out, such as target_snr beside corrector=none.

    Raises:
        ValueError: if solver, grid and corrector are incompatible.
    """
    foreign = "solver" in given and given["solver"] != own.get("solver")
    kept = {name: value for name, value in own.items() if not (foreign and name in SETTINGS)}
    merged = {**kept, **given}
    read = select_readable(make_method(merged))
    return {name: value for name, value in merged.items() if name in given or name in read or name not in SETTINGS}


def add_default_solver(settings: Mapping[str, Any], usual: Solver, *, resample: int = 0) -> dict[str, Any]:
    """Return the settings with a solver, the model's default if they name none.

    Args:
        usual: the model's default solver, see :class:`raysde.models.spec.ModelSpec`.
        resample: number of times that each step is repeated.
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
    """Return the settings to sample with: the given ones, then the model's own, then the package's defaults.

    The guidance scale is the first that applies:

    - the given one;
    - the model's own, if the images have prompts or labels, a negative prompt or a guide model;
    - :data:`GUIDED`, if there is a negative prompt, or a guide model without a scale of its own;
    - ``scale``, if the images have prompts or labels;
    - 1, no guidance.

    Args:
        own: settings of the model's description.
        given: keyword arguments of a model's ``sample``; a guidance of None counts as not given. Others pass through.
        conditional: True if the images have prompts or labels.
        usual: the model's default solver.
        scale: default guidance scale with prompts or labels: 1 in Python, otherwise :data:`GUIDED`.
        resample: number of times that each step is repeated.

    Raises:
        ValueError: if a guidance interval is given without guidance, or settings are incompatible.
    """
    guided = conditional or any(given.get(name) is not None for name in ("negative", "autoguide"))
    kept = own if guided else {name: value for name, value in own.items() if name not in GUIDANCE}
    named = {name: value for name, value in given.items() if value is not None or name not in GUIDANCE}
    found = add_default_solver(complete_settings(kept, named), usual, resample=resample)
    apart = given.get("autoguidance") is not None
    away = given.get("negative") is not None or (given.get("autoguide") is not None and not apart)
    default = GUIDED if away else scale if conditional else 1.0
    if found.get("guidance_interval") is not None and default == 1.0 and "guidance" not in found and not apart:
        raise ValueError("guidance_interval has no effect at guidance 1: set a larger scale, such as guidance=2")
    method = Method(**make_method(found))
    return {"guidance": default, "solver": method.solver, "steps": method.steps, **found}


def describe_overrides(
    own: Mapping[str, Any], given: Mapping[str, Any], conditional: bool, *, usual: Solver
) -> str | None:
    """Return the given settings as text; None if they do not change how the model samples.

    Args:
        conditional, usual: see :func:`resolve_settings`.

    Raises:
        ValueError: as :func:`resolve_settings`.
    """
    named = {name: value for name, value in sorted(given.items()) if name != "batch_size"}
    drawn, alone = (resolve_settings(own, each, conditional, usual=usual, scale=GUIDED) for each in (named, {}))
    return None if drawn == alone else describe_settings(named)


def describe_settings(settings: Mapping[str, Any]) -> str:
    """Return settings as text: ``solver=unipc steps=10 guidance=2 guidance_interval=0.2:5``."""
    return " ".join(f"{name}={_format_value(value)}" for name, value in settings.items())


def _format_value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ":".join(_format_value(part) for part in value)
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
