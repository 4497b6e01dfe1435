"""Checks of the files that commands write: pictures that raysde did not write are never overwritten."""

import os
from collections.abc import Sequence
from pathlib import Path

from raysde.io.amounts import amount
from raysde.io.progress import say

UNMARKED = "exists and is not marked as written by raysde (older versions left no mark); move it away or name another"


def check_out(out: Path, names: Sequence[str]) -> None:
    """Refuse an output folder that cannot be written, or holds files of these names that raysde did not write.

    Args:
        out: folder of ``--out``.
        names: names of the files to be written.

    Raises:
        ValueError: naming the path that is not a writable folder, or the file that raysde may not have written.
    """
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        fault = "cannot be written to" if there.is_dir() else "is a file"
        raise ValueError(f"--out {out}: {there} {fault}; name another folder")
    here = (name for name in names if (out / name).exists()) if out.is_dir() else ()
    if other := next((name for name in here if not is_marked(out / name)), None):
        raise ValueError(f"--out {out}: {other} {UNMARKED} folder")


def check_picture(option: str, path: Path) -> None:
    """Refuse the path of a single picture that cannot be written, or has a file that raysde did not write.

    The folder of the picture is created if it is missing.

    Args:
        option: option that gave the path, such as ``--sheet``, for the message.

    Raises:
        ValueError: naming the option and the path.
    """
    from PIL import Image

    from raysde.io.filesystems import check_writable

    if path.is_dir():
        raise ValueError(f"{option} {path} is a folder; name a file in it")
    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise ValueError(f"{option} {path}: no picture is written in this format; name a .png file")
    check_writable(str(path), option)
    if path.exists() and not is_marked(path):
        raise ValueError(f"{option} {path} {UNMARKED} file")


def is_marked(path: Path) -> bool:
    """Return True for a PNG file that raysde wrote; Pillow is imported on the first call."""
    from raysde.images.png import is_own

    return is_own(path)


def name_pictures(count: int) -> list[str]:
    """Return the file names of ``count`` images in an output folder."""
    return [f"image-{number:03d}.png" for number in range(count)]


def say_older_pictures(out: Path, count: int) -> None:
    """Print a note if the output folder holds images of an earlier run, and how many of them will remain."""
    older = sorted(path.name for path in out.glob("image-*.png") if is_marked(path))
    if not older:
        return
    new = set(name_pictures(count))
    stay = [name for name in older if name not in new]
    one = len(older) == 1
    kept = ", which is replaced" if one else ", which are replaced"
    if stay:
        others = f"stay{'s' if len(stay) == 1 else ''} beside the new ones"
        kept = f", which {others}" if one else f", of which {len(stay)} {others} ({stay[0]}, ...)"
    say(f"{out} holds {amount(len(older), 'picture')} of an earlier drawing{kept}")
