"""Numeric attributes of images, parsed in the same way for every kind of source."""

from collections.abc import Mapping
from typing import Any

from raysde.data.attributes import parse_number
from raysde.data.ingest.sources.columns import find_spellings

Values = tuple[float | None, ...]
"""A value for each attribute, None where it is unknown; empty without attributes."""


def read_attributes(row: Mapping[str, Any], names: tuple[str, ...]) -> Values:
    """Return the attributes of one entry of metadata.

    Args:
        names: names of the attributes, normalised by :func:`raysde.data.ingest.sources.columns.normalise_name`.

    Raises:
        ValueError: naming the column whose value is no finite number, or that occurs in two spellings.
    """
    if not names:
        return ()
    spelled = find_spellings(row, names)
    return tuple(parse_attribute(spelled[name], row[spelled[name]]) if name in spelled else None for name in names)


def parse_attribute(column: str, value: Any) -> float | None:
    """Return the value of a column as a number, None if it is empty.

    Raises:
        ValueError: naming the column, if the value is no finite number.
    """
    try:
        return parse_number(value)
    except ValueError as error:
        raise ValueError(f"{column} {str(value)[:40]!r} is {error}") from None


def merge_attributes(before: Values, more: Values, names: tuple[str, ...]) -> Values:
    """Return the attributes of one image from two of its descriptions.

    Raises:
        ValueError: naming the attribute of which they have two values.
    """
    if not before or not more:
        return before or more
    for name, old, new in zip(names, before, more, strict=True):
        if None not in (old, new) and old != new:
            raise ValueError(f"it has {name} {new:g} here and {old:g} before")
    return tuple(new if old is None else old for old, new in zip(before, more, strict=True))
