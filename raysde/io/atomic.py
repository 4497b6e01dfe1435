"""Atomic writes of local files and folders: written under another name first, then renamed.

.NAME.HEX.part   a file during the write; each writer uses its own HEX, so two writers never share a file
.NAME.partial    a folder or remote file during the write; the next writer of NAME replaces it
.NAME.old        a folder that is being replaced by a new one of its name

An error leaves NAME unchanged. A kill leaves NAME unchanged too, and may leave one of these files behind.
:mod:`raysde.io.filesystems` writes remote files.
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
    """Yield the path to write a file to; without an error, the file then replaces ``path``.

    Args:
        path: the file; its folder is created.
        what: name of the content, for the error message.

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
    """Return True if a killed :func:`write_atomically` leaves files of this name."""
    return name.startswith(".") and name.endswith(".part")


@contextmanager
def write_folder_atomically(folder: Path, what: str, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder to fill; without an error, it is then renamed to ``folder``.

    Args:
        folder: the folder; its parents are created.
        what: name of the content, for the error message.
        replace: replace an existing folder instead of failing.

    Raises:
        OSError: naming ``folder``, if it cannot be written or exists.
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
    """Return the name under which ``folder`` is written, and delete what a killed process left there."""
    partial = partial_name(folder)
    shutil.rmtree(partial, ignore_errors=True)
    return partial


def partial_name(place: Path) -> Path:
    """Return the name under which a folder with a single writer is written."""
    return place.with_name(f".{place.name}.partial")


def move_into_place(partial: Path, folder: Path) -> None:
    """Rename a finished folder, and move an existing one out of the way first, so that it is never partly there.

    The existing folder comes back if the rename fails; after a kill between the two it is ``.NAME.old``.
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
    """Write tensors of any shape to a safetensors file with the strings ``about`` in its header.

    Raises:
        OSError: naming the file, if it cannot be written.
    """
    from safetensors.torch import save_file  # imports torch, which most file operations do not need

    with write_atomically(path, "tensors") as partial:
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, partial, about)
