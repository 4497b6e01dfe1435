"""Candidates of a search: every combination of the settings' values, each once, and its cost."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from raysde.inference.guidance import guided_rows
from raysde.models.sampling_defaults import (
    KINDS,
    add_default_solver,
    check_settings,
    complete_settings,
    convert_value,
    describe_settings,
)
from raysde.sampling.method import (
    CORRECTED,
    SETTINGS,
    Method,
    describe_reader,
    make_method,
    no_setting,
    select_readable,
)
from raysde.sampling.solvers import Solver
from raysde.sampling.solvers.default import DEFAULT
from raysde.sde import SDE
from raysde.training.posthoc_ema import check_std

AVERAGE = "ema_std"
"""Key of the average's relative standard deviation; None for the run's own average."""
NAMES = (AVERAGE, *KINDS)
WORDS = {"none": None, "true": True, "false": False}


@dataclass(frozen=True)
class Candidate:
    """An average and sampler settings to try.

    Attributes:
        average: relative standard deviation of the post-hoc average, None for the run's own.
        drawing: sampler settings in the form of a model's description, without those that its solver ignores.
        evaluations: network evaluations for each image, including guidance.
    """

    average: float | None
    drawing: dict[str, Any]
    evaluations: float

    def __str__(self) -> str:
        return describe_settings(self.values)

    @property
    def values(self) -> dict[str, Any]:
        """All settings, by their names in a space."""
        return self.drawing if self.average is None else {AVERAGE: self.average, **self.drawing}


def parse_space(pairs: Sequence[str]) -> dict[str, list[Any]]:
    """Parse ``KEY=VALUE,VALUE,...`` to values by key; an interval is written LOW:HIGH, and none means None.

    Raises:
        ValueError: naming the pair and what is wrong with it.
    """
    space: dict[str, list[Any]] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not text:
            raise ValueError(f"{pair!r} must read key=value,value,... such as steps=5,10,20")
        if key not in NAMES:
            raise ValueError(f"{pair!r}: {no_setting(key, NAMES)}")
        if key in space:
            raise ValueError(f"{key} is given twice; put its values in one list")
        space[key] = [_parse_value(key, word) for word in text.split(",")]
    return space


def _parse_value(key: str, word: str) -> Any:
    """Convert a word to a value of a setting.

    Raises:
        ValueError: if it is none.
    """
    found: Any = word if key == "corrector" else WORDS.get(word, word)
    if isinstance(found, str):
        numbers = [_parse_number(part) for part in word.split(":")]
        found = numbers[0] if len(numbers) == 1 else tuple(numbers)
    if key != AVERAGE:
        return convert_value(key, found)
    if found is not None:
        if not isinstance(found, int | float):
            raise ValueError(f"{AVERAGE} must be a number or none, got {word!r}")
        check_std(found)
    return found


def _parse_number(word: str) -> Any:
    """Return the number, or the word itself."""
    try:
        return json.loads(word)
    except json.JSONDecodeError:
        return word


def default_space(*, conditional: bool) -> dict[str, list[Any]]:
    """Return the default space: solvers, steps and, for conditional models, guidance scales."""
    found: dict[str, list[Any]] = {"solver": ["unipc", "dpmpp_2m", "heun"], "steps": [5, 10, 20]}
    return found | ({"guidance": [1.0, 1.5, 2.0, 3.0]} if conditional else {})


def list_candidates(
    space: Mapping[str, Sequence[Any]],
    own: Mapping[str, Any],
    sde: SDE,
    *,
    conditional: bool,
    usual: Solver = DEFAULT,
) -> list[Candidate]:
    """Return every combination once; settings that have no effect beside the others are left out.

    Args:
        own: the model's current settings, used for keys that the space does not name.
        sde: SDE of the model.
        conditional: True if the model takes captions or labels.
        usual: solver if neither the space nor ``own`` names one.

    Raises:
        ValueError: if a combination is invalid, or a key has no effect in any.
    """
    found: dict[str, Candidate] = {}
    for values in product(*space.values()):
        given = dict(zip(space, values, strict=True))
        average = given.pop(AVERAGE, None)
        drawing = effective_settings(
            add_default_solver(complete_settings(own, given), usual), sde, conditional=conditional
        )
        candidate = Candidate(average, drawing, count_evaluations(drawing, sde))
        found.setdefault(json.dumps(candidate.values, sort_keys=True), candidate)
    for key in space:
        if key != AVERAGE and not any(key in each.drawing for each in found.values()):
            raise ValueError(f"{key} has no effect here: {_describe_setting_reader(key)}")
    return list(found.values())


def effective_settings(given: Mapping[str, Any], sde: SDE, *, conditional: bool) -> dict[str, Any]:
    """Return the settings that have an effect, including solver and steps.

    Raises:
        ValueError: if they are invalid, do not fit the model, or their cost is unknown in advance.
    """
    typed = {name: convert_value(name, value) for name, value in given.items()}
    settings = check_settings(
        select_readable(make_method(typed)) | {name: typed[name] for name in typed if name not in SETTINGS}
    )
    method = Method(**make_method(settings))
    method.check(sde)
    if method.nfe is None:
        raise ValueError(
            f"solver {method.solver} chooses its own steps, so its cost is unknown in advance; leave it out"
        )
    guided = settings.get("guidance", 1.0) != 1.0
    if guided and not conditional:
        raise ValueError(
            f"guidance={settings['guidance']} needs a model with captions or labels, this one has none; leave it out"
        )
    read = {"solver", "steps", "grid", "corrector", "denoise", "guidance", *method.kind.settings}
    read |= {"rho"} if method.grid_for(sde) == "edm" else set()
    read |= set(CORRECTED) if method.correction is not None else set()
    read |= {"guidance_interval"} if guided and settings.get("guidance_interval") is not None else set()
    chosen = {"solver": method.solver, "steps": method.steps, **settings}
    return {name: chosen[name] for name in KINDS if name in chosen and name in read and chosen[name] is not None}


def count_evaluations(drawing: Mapping[str, Any], sde: SDE) -> float:
    """Return the network evaluations for each image; guidance doubles them at the times where it applies.

    Raises:
        ValueError: naming a setting that is out of range.
    """
    method = Method(**make_method(drawing))
    assert method.nfe is not None
    times = method.times(sde)[:-1]
    guided = guided_rows(sde, times, drawing.get("guidance", 1.0), drawing.get("guidance_interval"))
    return method.nfe * (1.0 + len(guided) / len(times))


def _describe_setting_reader(key: str) -> str:
    """Describe the solvers or conditions under which a setting has an effect."""
    if key == "guidance_interval":
        return "it needs a guidance other than 1"
    return (describe_reader(key) if key in SETTINGS else "") or "every value of it is none"
