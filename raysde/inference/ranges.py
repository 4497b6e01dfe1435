"""Ranges of image numbers, the units of distributed sampling."""

PART = 256
"""Number of images in a range that one worker samples at a time."""


def split_range(count: int, size: int = PART) -> list[tuple[int, int]]:
    """Split ``count`` images into ranges of at most ``size`` images; return (first, count) of each range."""
    return [(first, min(size, count - first)) for first in range(0, count, size)]
