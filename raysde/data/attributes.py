"""Numeric attributes of images: numbers from columns of a source, such as an age, stored with their range."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from raysde.io.near import did_you_mean

RESERVED = ("image", "mask", "image_file", "mask_file", "prompt", "label", "number", "seed", "negative")
"""Columns of prompt files, requests and drawn images, which no attribute may be named after."""
NAME = re.compile(r"[a-z_][a-z0-9_]*", re.ASCII)


@dataclass(frozen=True)
class Attribute:
    """A numeric attribute and the smallest and largest of its values in a data set.

    Attributes:
        name: lower case letters, digits and underscores.
        low, high: range of the values.

    Raises:
        ValueError: if the name or the range is invalid.
    """

    name: str
    low: float
    high: float

    def __post_init__(self) -> None:
        check_attribute_name(self.name)
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise ValueError(f"attribute {self.name!r} has the range {self.low} to {self.high}, expected low <= high")

    def contains(self, value: float) -> bool:
        """Return True if a value lies in the range."""
        return self.low <= value <= self.high


def check_attribute_name(name: str) -> None:
    """Check the name of an attribute, which is a key of recipes and a column of prompt files.

    Raises:
        ValueError: if it is not one word, or a word with another meaning there.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"attribute {name!r}: a name has letters, digits and underscores alone; rename the column")
    if name in RESERVED:
        raise ValueError(f"attribute {name!r}: the name has another meaning in prompt files; rename the column")


def parse_number(value: Any) -> float | None:
    """Return a value as a finite number, None for null, NaN and blank text.

    Raises:
        ValueError: with the rest of a sentence, "no number", if it is something else.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, bool):
        raise ValueError("no number")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("no number") from None
    if math.isinf(number):
        raise ValueError("not finite")
    return None if math.isnan(number) else number


def choose_attributes(names: Iterable[str], known: Sequence[Attribute], what: str) -> tuple[Attribute, ...]:
    """Return the named attributes in the order of ``known``.

    Args:
        known: existing attributes.
        what: owner of the existing attributes, such as ``the model``, for the message.

    Raises:
        ValueError: naming the first name that does not exist.
    """
    wanted, there = list(names), [each.name for each in known]
    for name in wanted:
        if name not in there:
            have = f"there are {', '.join(there)}" if there else f"{what} has none"
            raise ValueError(f"there is no attribute {name!r}{did_you_mean(name, there)}; {have}")
    return tuple(each for each in known if each.name in wanted)
