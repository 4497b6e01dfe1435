"""Intervals of a run in steps or in time."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator

UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}
TIME = re.compile(rf"([0-9]+(?:\.[0-9]+)?) ?({'|'.join(UNITS)})")


def _check_interval(given: Any) -> Any:
    """Return a number of steps or a time such as ``10min``.

    Raises:
        ValueError: if it is neither.
    """
    if isinstance(given, int) and not isinstance(given, bool) and given >= 0:
        return given
    if isinstance(given, str) and seconds_of(given) > 0.0:
        return given
    raise ValueError(f"it is neither a number of steps, such as 1000, nor a time, such as 10min, got {given!r}")


Interval = Annotated[int | str, BeforeValidator(_check_interval)]
"""A number of steps, or a time in seconds, minutes or hours: 90s, 10min, 1.5h."""


def steps_of(interval: int | str) -> int:
    """Return the interval in steps; 0 for a time."""
    return interval if isinstance(interval, int) else 0


def seconds_of(interval: int | str) -> float:
    """Return the interval in seconds; 0 for a number of steps."""
    found = TIME.fullmatch(interval) if isinstance(interval, str) else None
    return 0.0 if found is None else float(found[1]) * UNITS[found[2]]
