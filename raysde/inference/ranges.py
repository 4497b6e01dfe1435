"""Numbered images in ranges, the units that are handed out and kept."""

PART = 256
"""Images of a part: the unit that is handed out."""


def split_range(count: int, size: int = PART) -> list[tuple[int, int]]:
    """(first, number) of the parts of ``count`` images, ``size`` at most in each."""
    return [(first, min(size, count - first)) for first in range(0, count, size)]
