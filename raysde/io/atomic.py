"""Local files and folders that appear whole or not at all: written under another name first, then renamed.

.NAME.HEX.part   a file while it is written; each writer has a name of its own, so that two never write into one file
.NAME.partial    a folder while it is written, or a remote file; the next writer of NAME starts it anew
.NAME.old        a folder that gives way to a new one of its name

An error leaves NAME as it was. So does a kill, which also leaves one of these behind. Remote files are written by
:mod:`raysde.io.filesystems`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from raysde.io.errors import name_place_of_write

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def write_atomically(path: Path, what: str) -> Iterator[Path]:
    """Yield where to write a file; it takes the place of ``path`` at the end, unless an error is raised.

    Args:
        path: the file, whose folder is made.
        what: its content, for the error.

    Raises:
        OSError: naming ``path``, if it cannot be written.
    """
    with name_place_of_write(what, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{uuid4().hex}.part")
        try:
            yield partial
        except Exception:
            partial.unlink(missing_ok=True)
            raise
        partial.replace(path)


def is_partial(name: str) -> bool:
    """Return True for the name of a file that a killed :func:`write_atomically` leaves."""
    return name.startswith(".") and name.endswith(".part")


@contextmanager
def write_folder_atomically(folder: Path, what: str, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder to fill; it takes the name ``folder`` at the end, unless an error is raised.

    Args:
        folder: the folder, whose parents are made.
        what: its content, for the error.
        replace: take the place of a folder that is there, instead of failing.

    Raises:
        OSError: naming ``folder``, if it cannot be written, or is there.
    """
    with name_place_of_write(what, folder):
        partial = clear_partial(folder)
        partial.mkdir(parents=True)
        try:
            yield partial
        except Exception:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        if replace:
            move_into_place(partial, folder)
        else:
            os.replace(partial, folder)


def clear_partial(folder: Path) -> Path:
    """Return the name under which ``folder`` is written, without what a killed process left there."""
    partial = partial_name(folder)
    shutil.rmtree(partial, ignore_errors=True)
    return partial


def partial_name(place: Path) -> Path:
    """Return the name under which a folder is written that has one writer at a time."""
    return place.with_name(f".{place.name}.partial")


def move_into_place(partial: Path, folder: Path) -> None:
    """Rename a finished folder; one that was there gives way first, so that it is never there in part.

    It comes back if the rename fails; after a kill between the two it is ``.NAME.old``.
    """
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    try:
        os.replace(partial, folder)
    except OSError:
        if old.exists():
            os.replace(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def save_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, str]) -> None:
    """Write a safetensors file, with strings about it in its header.

    Raises:
        OSError: naming the file, if it cannot be written.
    """
    from safetensors.torch import save_file  # imports torch, which most files do without

    with write_atomically(path, "tensors") as partial:
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, partial, about)
