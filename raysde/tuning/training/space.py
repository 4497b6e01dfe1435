"""The search space of a sweep: the keys of a recipe that vary, and their values.

An axis is a dotted path, a whole node such as ``sde``, or several paths that vary together, separated by commas. Its
values are a list, or a range: ``uniform(LOW, HIGH)``, ``log(LOW, HIGH)`` and ``int(LOW, HIGH)``. A third number turns a
range into a list of that many values, evenly spaced on its own scale, ends included.
"""

import copy
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from raysde.config import loading, reference
from raysde.io.near import did_you_mean

Values = dict[str, Any]
"""The values of a trial by the name of each axis."""
RANGE = re.compile(r"(uniform|log|int)\(([^(),]+),([^(),]+)(?:,([^(),]+))?\)")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
FIXED = {
    "name": "is set for each trial",
    "storage": "is set by the sweep",
    "tracking": "is set by the sweep",
    "seed": "also decides which rows are held out, so errors could not be compared",
    "validation": "defines how trials are compared",
    "data.path": "is the data that trials are compared on",
    "data.mix": "is the data that trials are compared on",
    "data.stream": "does not change the training",
    "latent": "decides the units of errors, so they could not be compared",
    "sampling": "does not change the training",
    "resources": "does not change the training",
    "log_every": "does not change the training",
    "checkpoint_every": "does not change the training",
    "keep": "does not change the training",
    "publish": "does not change the training",
}
"""Keys that cannot vary, and the reason."""
CHECKED = 500
"""Largest number of combinations of lists that are checked before a search that chooses them later."""


@dataclass(frozen=True)
class Range:
    """Numbers between two ends, uniform on a linear or logarithmic scale, or integers.

    Attributes:
        kind: uniform, log (uniform in the logarithm) or int (whole numbers, uniform).
        low, high: ends of the range, in units of the key; ``int`` alone includes ``high``.
    """

    kind: Literal["uniform", "log", "int"]
    low: float
    high: float

    def at(self, place: float) -> float | int:
        """Return the value at the fraction ``place`` in [0, 1)."""
        if self.kind == "log":
            return math.exp(math.log(self.low) + place * (math.log(self.high) - math.log(self.low)))
        if self.kind == "int":
            return int(self.low) + int(place * (int(self.high) - int(self.low) + 1))
        return self.low + place * (self.high - self.low)


@dataclass(frozen=True)
class Axis:
    """One dimension of the space.

    Attributes:
        paths: dotted paths that vary together; with several, every choice is a list of as many values.
        values: the choices, or a range.
    """

    paths: tuple[str, ...]
    values: tuple[Any, ...] | Range

    @property
    def name(self) -> str:
        return ",".join(self.paths)

    def assignments(self, value: Any) -> list[tuple[list[str], Any]]:
        """Return the recipe's keys and values that a value of the axis stands for."""
        each = [value] if len(self.paths) == 1 else value
        return [(path.split("."), copy.deepcopy(one)) for path, one in zip(self.paths, each, strict=True)]


@dataclass(frozen=True)
class Space:
    """The axes of a search."""

    axes: tuple[Axis, ...]

    @property
    def size(self) -> int | None:
        """The number of combinations; None with a range."""
        counts = [None if isinstance(axis.values, Range) else len(axis.values) for axis in self.axes]
        return None if None in counts else math.prod(count for count in counts if count is not None)

    def combination(self, number: int) -> Values:
        """Return combination ``number`` of the lists; the last axis changes first."""
        found: Values = {}
        for axis in reversed(self.axes):
            assert not isinstance(axis.values, Range)
            number, index = divmod(number, len(axis.values))
            found[axis.name] = axis.values[index]
        return {axis.name: found[axis.name] for axis in self.axes}

    def corners(self) -> list[Values]:
        """Return every combination of the lists, up to ``CHECKED`` of them, with ranges at their low ends."""
        lists = [(axis.values.at(0.0),) if isinstance(axis.values, Range) else axis.values for axis in self.axes]
        names = [axis.name for axis in self.axes]
        return [dict(zip(names, each, strict=True)) for each in itertools.islice(itertools.product(*lists), CHECKED)]


def read_space(given: Mapping[str, Any]) -> Space:
    """Parse a space from names of axes to lists or ranges.

    Raises:
        ValueError: naming the axis that is no key of a recipe (and similar keys), may not vary, has values that cannot
            be read, or overlaps with another.
    """
    if not given:
        raise ValueError("the space of the sweep is empty: give keys and their values, such as train.lr=log(1e-4,1e-2)")
    axes = tuple(_read_axis(name, values) for name, values in given.items())
    paths = [path for axis in axes for path in axis.paths]
    for one, other in itertools.permutations(range(len(paths)), 2):
        if f"{paths[one]}.".startswith(f"{paths[other]}."):
            raise ValueError(f"the space names {paths[one]!r} and {paths[other]!r}, which overlap; remove one of them")
    return Space(axes)


def _read_axis(name: str, values: Any) -> Axis:
    paths = tuple(path.strip() for path in name.split(","))
    for path in paths:
        _check_path(path)
    if isinstance(values, str):
        return Axis(paths, _parse_range(paths, values))
    if not isinstance(values, list) or not values:
        raise ValueError(f"the space of {name!r} must be a list or a range such as log(1e-4, 1e-2), got {values!r}")
    for value in values if len(paths) > 1 else ():
        if not isinstance(value, list) or len(value) != len(paths):
            raise ValueError(f"the space of {name!r} needs lists of {len(paths)} values, got {value!r}")
    choices = tuple(_to_numbers(value) for value in values)
    if len({json.dumps(value, sort_keys=True) for value in choices}) < len(choices):
        raise ValueError(f"the space of {name!r} has a value twice; remove one")
    return Axis(paths, choices)


def _check_path(path: str) -> None:
    meanings = reference.list_meanings()
    if path not in meanings:
        hint = did_you_mean(path, meanings, meanings)
        raise ValueError(f"the space names {path!r}, which is no key of a recipe{hint}; `raysde config` lists all keys")
    for fixed, reason in FIXED.items():
        if f"{path}.".startswith(f"{fixed}.") or f"{fixed}.".startswith(f"{path}."):
            raise ValueError(f"the space names {path!r}, but {fixed} {reason}")


def _parse_range(paths: tuple[str, ...], text: str) -> tuple[Any, ...] | Range:
    name, match = ",".join(paths), RANGE.fullmatch(text.strip())
    if match is None or len(paths) > 1:
        raise ValueError(f"the space of {name!r} must be a list, uniform(a,b), log(a,b) or int(a,b), got {text!r}")
    kind, *numbers = match.groups()
    try:
        low, high = float(numbers[0]), float(numbers[1])
        points = None if numbers[2] is None else int(numbers[2])
    except ValueError:
        raise ValueError(f"the space of {name!r} needs numbers, got {text!r}") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high) or (kind == "log" and low <= 0.0):
        raise ValueError(f"the space of {name!r} needs {'0 < ' if kind == 'log' else ''}low < high, got {text!r}")
    if kind == "int" and not (low.is_integer() and high.is_integer()):
        raise ValueError(f"the space of {name!r} needs whole numbers, got {text!r}")
    if points is None:
        return Range(kind, low, high)  # type: ignore[arg-type]
    if points < 2:
        raise ValueError(f"the space of {name!r} needs at least 2 points, got {text!r}")
    return _space_points(kind, low, high, points)


def _space_points(kind: str, low: float, high: float, count: int) -> tuple[float | int, ...]:
    places = [number / (count - 1) for number in range(count)]
    if kind == "log":
        inner = [float(f"{low * (high / low) ** place:.6g}") for place in places]
        return (low, *inner[1:-1], high)
    even = [low + place * (high - low) for place in places]
    return tuple(dict.fromkeys(round(value) for value in even)) if kind == "int" else tuple(even)


def _to_numbers(value: Any) -> Any:
    """Convert numbers such as 1e-4, which YAML reads as strings."""
    if isinstance(value, list):
        return [_to_numbers(one) for one in value]
    return float(value) if isinstance(value, str) and NUMBER.fullmatch(value) else value


def vary_recipe(tree: Mapping[str, Any], space: Space, values: Values) -> dict[str, Any]:
    """Return a recipe's tree with a trial's values set."""
    changed = copy.deepcopy(dict(tree))
    loading.assign_paths(changed, [pair for axis in space.axes for pair in axis.assignments(values[axis.name])])
    return changed


def check_recipes(tree: Mapping[str, Any], space: Space, combinations: Sequence[Values]) -> None:
    """Check that every combination makes a valid recipe.

    Raises:
        ValueError: naming the first combination that does not, and the reason.
    """
    for values in combinations:
        try:
            loading.parse_recipe(vary_recipe(tree, space, values))
        except ValueError as error:
            raise ValueError(f"the space holds {describe_values(values)}, which is no valid recipe: {error}") from None


def format_value(value: Any) -> str:
    """Format a value in a few characters: ``vp schedule=cosine`` for a node."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        rest = {key: one for key, one in value.items() if key != "kind"}
        words = [f"{key}={format_value(one)}" for key, one in rest.items()]
        return " ".join([str(value["kind"]), *words] if "kind" in value else words)
    if isinstance(value, list):
        return "/".join(format_value(one) for one in value)
    return "null" if value is None else str(value)


def describe_values(values: Values) -> str:
    """Format a trial's values in a line."""
    return ", ".join(f"{name}={format_value(value)}" for name, value in values.items())
