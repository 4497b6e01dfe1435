"""Sizes of images, height before width: read from text, numbers and pairs, and written for people."""

import re
from collections.abc import Sequence
from typing import Any

Size = tuple[int, int]
"""(height, width) in pixels."""
TEXT = re.compile(r"(\d+)(?:x(\d+))?")


def read_size(given: Any) -> Size:
    """Return the (height, width) that a number, a pair, or text such as ``32`` or ``16x32`` means.

    Args:
        given: one number is both sides.

    Raises:
        ValueError: if it is none of these, or a side is not positive.
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
    """Return what was given for a size, for people."""
    return "x".join(map(str, given)) if isinstance(given, list | tuple) else repr(given)


def format_size(size: Size) -> str:
    """Return a size as it is written on the command line: ``16x32``."""
    return f"{size[0]}x{size[1]}"
