"""Supported image formats, their file suffixes, and a note on the files that are not read."""

from collections import defaultdict
from collections.abc import Collection, Iterable
from pathlib import PurePosixPath

from PIL import Image

KINDS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM")
"""Pillow formats that are decoded; others are refused because some, such as EPS, start programs."""
IMAGE_SUFFIXES = tuple(
    sorted(suffix for suffix, kind in Image.registered_extensions().items() if kind in (*KINDS, "MPO"))
)
"""Suffixes that Pillow registers for these formats, and for MPO, a JPEG followed by further JPEGs."""
EXAMPLES = 3


def unread_note(names: Iterable[str], read: Collection[str]) -> list[str]:
    """Return one note that counts the files in ``names`` but not in ``read``, by suffix; no note if there are none."""
    others: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if name not in read:
            others[PurePosixPath(name).suffix.lower() or "no suffix"].append(name)
    if not others:
        return []
    said = "; ".join(
        f"{len(found)} of {suffix} ({', '.join(found[:EXAMPLES])}{' ...' if len(found) > EXAMPLES else ''})"
        for suffix, found in sorted(others.items(), key=lambda item: (-len(item[1]), item[0]))
    )
    return [f"files that are not read: {said}; images are files of {' '.join(IMAGE_SUFFIXES)}"]
