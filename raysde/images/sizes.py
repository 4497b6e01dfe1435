"""Image sizes, height before width: parsed from text, numbers and pairs, and formatted for messages."""

import re
from collections.abc import Sequence
from typing import Any

Size = tuple[int, int]
"""(height, width) in pixels."""
TEXT = re.compile(r"(\d+)(?:x(\d+))?")


def read_size(given: Any) -> Size:
    """Return (height, width) from a number, a pair, or text such as ``32`` or ``16x32``.

    Args:
        given: one number for both sides, or height and width.

    Raises:
        ValueError: if ``given`` is none of these, or a side is not positive.
    """
    found: Any = given
    if isinstance(given, str) and (match := TEXT.fullmatch(given.strip())):
        found = [int(side) for side in match.groups() if side is not None]
    sides = tuple(found) if isinstance(found, Sequence) and not isinstance(found, str) else (found,)
    if len(sides) not in (1, 2) or not all(type(side) is int and side > 0 for side in sides):
        raise ValueError(
            f"a size is a whole number or HEIGHTxWIDTH, such as 32 or 16x32, got {format_given_size(given)}"
        )
    return sides[0], sides[-1]


def format_given_size(given: Any) -> str:
    """Return an unparsed value for a size as text for an error message."""
    return "x".join(map(str, given)) if isinstance(given, list | tuple) else repr(given)


def format_size(size: Size) -> str:
    """Return a size in the command line's format, such as ``16x32``."""
    return f"{size[0]}x{size[1]}"
