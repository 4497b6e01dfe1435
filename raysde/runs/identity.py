"""The identity of a run: a random word in its folder, which is removed with the folder.

STORAGE/NAME/identity.json   the word, a hash of the settings that determine the run's numbers, and its end

A name alone does not identify the MLflow run: the folder may have been removed, and the name used again.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import pyarrow.fs as pafs

from raysde.checkpoints.description import list_checkpoints
from raysde.io.errors import Interrupted
from raysde.io.filesystems import (
    absolute_location,
    child_path,
    exists,
    open_filesystem,
    read_bytes,
    write_json,
)

FILE = "identity.json"
BY_NAME = ""
"""The word of runs from before identity words existed: their MLflow run is found by its name alone."""


def settle_word(folder: str, shape: Mapping[str, Any], *, begun: bool) -> str:
    """Return the word of the run in a folder and store it there; a run that starts anew gets a new word.

    A run that was killed before its first checkpoint keeps its word if its recipe is the same.

    Args:
        folder: folder of the run, local or a URI.
        shape: settings that determine the run's numbers, as JSON values.
        begun: True if the run resumes from the folder, False if it starts at its first step.

    Raises:
        ValueError: if the file in the folder is damaged.
    """
    found, digest = _read_word(folder), _hash_shape(shape)
    if begun:
        word = BY_NAME if found is None else str(found["word"])
    elif found is not None and found["shape"] == digest and not found["ended"]:
        word = str(found["word"])
    else:
        word = uuid4().hex
    _write_word(folder, {"word": word, "shape": digest, "ended": False})
    return word


def note_end(folder: str) -> None:
    """Record in a run's folder that the run has ended, so that without its checkpoints it starts anew."""
    found = _read_word(folder)
    if found is not None:
        _write_word(folder, {**found, "ended": True})


def has_ended(folder: str) -> bool:
    """Return True if the run in a folder has ended, so that without its checkpoints it starts anew.

    Raises:
        ValueError: if the file in the folder is damaged.
    """
    found = _read_word(folder)
    return found is not None and bool(found["ended"])


def list_steps(folder: str) -> list[int]:
    """Return the steps of the checkpoints in a run's folder, complete or not, in ascending order."""
    system, root = open_filesystem(absolute_location(folder))
    names = [entry.base_name for entry in system.get_file_info(pafs.FileSelector(root, allow_not_found=True))]
    return sorted(int(name.removeprefix("step_")) for name in names if re.fullmatch(r"step_\d+", name))


def describe_interruption(folder: str) -> Interrupted:
    """Return the error of an interrupted run; it tells how to resume."""
    system, root = open_filesystem(absolute_location(folder))
    whole = [each.step for each in list_checkpoints(system, root) if each.description is not None]
    name = folder.partition("?")[0].rpartition("/")[2]
    place = f"from its checkpoint at step {whole[0]}" if whole else "from its beginning, since it has no checkpoint yet"
    return Interrupted(f"run {name!r} was interrupted; the same command goes on {place}")


def _hash_shape(shape: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()


def _read_word(folder: str) -> dict[str, Any] | None:
    place = child_path(absolute_location(folder), FILE)
    if not exists(place):
        return None
    try:
        found = json.loads(read_bytes(place))
    except ValueError as error:
        raise ValueError(f"{place} is damaged: {error}; remove it to begin a new MLflow run") from None
    if not isinstance(found, dict) or not {"word", "shape", "ended"} <= found.keys():
        raise ValueError(f"{place} is damaged: it lacks word, shape or ended; remove it to begin a new MLflow run")
    return found


def _write_word(folder: str, content: Mapping[str, Any]) -> None:
    if _read_word(folder) != content:
        write_json(child_path(absolute_location(folder), FILE), content)
