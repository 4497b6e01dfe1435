"""The kinds of image files that are read, their suffixes, and the files of a folder that nothing reads."""

from collections import defaultdict
from collections.abc import Collection, Iterable
from pathlib import PurePosixPath

from PIL import Image

KINDS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM")
"""Kinds that are decoded: pixels only; of Pillow's other kinds some start programs, such as EPS."""
IMAGE_SUFFIXES = tuple(
    sorted(suffix for suffix, kind in Image.registered_extensions().items() if kind in (*KINDS, "MPO"))
)
"""The suffixes that Pillow registers for these kinds; an MPO file is a JPEG with further ones behind it."""
EXAMPLES = 3


def unread_note(names: Iterable[str], read: Collection[str]) -> list[str]:
    """Return a note that counts the files which are not read, by suffix and with examples; none if all are read."""
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
