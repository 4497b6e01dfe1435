"""Storage of checkpoints: a local folder, or a URI that pyarrow supports (s3://, gs://).

STORAGE/NAME/step_000000100/   one folder for each checkpoint
"""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import pyarrow.fs as pafs

from raysde.checkpoints.description import (
    FILE,
    Kept,
    choose_newest_checkpoint,
    compare_hashes,
    list_checkpoints,
    verify_checkpoint,
)
from raysde.io.filesystems import absolute_location, child_path, hash_stream, open_filesystem

T = TypeVar("T")
COPIES = "raysde-copy-"


def is_local(storage: str) -> bool:
    """Return True if ``storage`` is a folder, False if it is a URI."""
    return "://" not in storage


def fetch_newest_checkpoint(storage: str, name: str, say: Callable[[str], None] | None = None) -> Path | None:
    """Return the newest checkpoint from which a run can resume, verified completely; None if there is none.

    A remote checkpoint is copied to a temporary folder, see :func:`discard_copy`. A remote folder without
    checkpoint.json, which is sent last, was left by a process killed while saving. If it is the only folder, it is the
    run's first save, and the run has no checkpoint yet.

    Args:
        say: callback that receives a message for each newer checkpoint passed over.

    Raises:
        ValueError: if there are checkpoints and none is whole.
        RuntimeError: if the storage cannot be read.
    """
    system, _ = open_filesystem(child_path(absolute_location(storage), name))

    def fetch_if_intact(each: Kept) -> Path:
        folder = Path(each.path) if is_local(storage) else _copy_checkpoint(system, each)
        try:
            verify_checkpoint(folder)
        except ValueError:
            discard_copy(folder)
            raise
        return folder

    return _choose(storage, name, fetch_if_intact, say)


def find_newest_checkpoint(
    storage: str,
    name: str,
    say: Callable[[str], None] | None = None,
    damaged: Mapping[str, str] | None = None,
    most: int | None = None,
) -> Kept | None:
    """Return the newest checkpoint whose description and file sizes are right, as :func:`fetch_newest_checkpoint`.

    Only listings and checkpoint.json are read. The files are compared with their hashes when they are loaded, see
    :func:`raysde.checkpoints.loading.open_verified`.

    Args:
        damaged: faults of checkpoints that turned out to be damaged when they were loaded, by name.
        most: largest step of the checkpoint; None for any.

    Raises:
        ValueError: if there are checkpoints and none is whole.
        RuntimeError: if the storage cannot be read.
    """

    def check_known(each: Kept) -> Kept:
        if damaged and each.name in damaged:
            raise ValueError(damaged[each.name])
        return each

    return _choose(storage, name, check_known, say, most)


def is_intact(storage: str, kept: Kept) -> bool:
    """Return True if the files of a whole checkpoint match their hashes; remote files are read, but not stored."""
    if kept.description is None:
        return False
    try:
        if is_local(storage):
            compare_hashes(Path(kept.path), kept.description, kept.description.files)
            return True
    except ValueError:
        return False
    system, _ = open_filesystem(storage)
    return all(
        hash_stream(system, f"{kept.path}/{name}") == expected for name, expected in kept.description.files.items()
    )


def _choose(
    storage: str,
    name: str,
    usable: Callable[[Kept], T],
    say: Callable[[str], None] | None,
    most: int | None = None,
) -> T | None:
    system, root = open_filesystem(child_path(absolute_location(storage), name))
    try:
        found = list_checkpoints(system, root)
        begun = [each for each in found if each.begun or is_local(storage)]
        if not begun and len(found) > 1:
            begun = found  # a run saves again only after a whole checkpoint, so one of these was whole
        if most is not None:
            begun = [each for each in begun if each.step <= most]
        return choose_newest_checkpoint(begun, usable, child_path(storage, name), say)
    except OSError as error:
        raise RuntimeError(f"storage {storage} cannot be read: {' '.join(str(error).split())}") from error


def _copy_checkpoint(system: pafs.FileSystem, each: Kept) -> Path:
    copy = Path(tempfile.mkdtemp(prefix=COPIES)) / each.name
    copy.mkdir()
    pafs.copy_files(each.path, str(copy), source_filesystem=system, destination_filesystem=pafs.LocalFileSystem())
    return copy


def discard_copy(folder: Path | None) -> None:
    """Delete a remote checkpoint's copy made by :func:`fetch_newest_checkpoint`, but never a local checkpoint."""
    if folder is not None and folder.parent.name.startswith(COPIES):
        shutil.rmtree(folder.parent, ignore_errors=True)


def clear_checkpoint(target: str) -> None:
    """Delete the remote checkpoint folder left by a killed process, checkpoint.json first."""
    system, root = open_filesystem(target)
    if system.get_file_info(f"{root}/{FILE}").is_file:
        system.delete_file(f"{root}/{FILE}")
    if system.get_file_info(root).type == pafs.FileType.Directory:
        system.delete_dir(root)


def prune_checkpoints(folder: str | Path, keep: int, saved: int, base: int | None = None) -> None:
    """Delete all but the ``keep`` newest whole checkpoints of a run.

    Damaged checkpoints and checkpoints after step ``saved`` stay: the run resumed from before them, perhaps because of
    tensors whose hashes are not compared here, and its user may repair or copy them. A folder in remote storage without
    checkpoint.json, which is uploaded last, is left over from a killed process and is deleted.

    Args:
        folder: folder or URI of the run.
        keep: 1 or more; the checkpoint of step ``saved`` is the first of them.
        saved: step of the checkpoint that the run has just written.
        base: step of a checkpoint that stays too, because a bad step returns to it; None for none.
    """
    system, root = open_filesystem(str(folder))
    found = list_checkpoints(system, root)
    old = [each for each in found if each.description is not None and each.step <= saved][keep:]
    old = [each for each in old if each.step != base]
    torn = [each for each in found if not (each.begun or is_local(str(folder)))]
    for each in old + torn:
        system.delete_dir(each.path)


def delete_later_checkpoints(folder: str | Path, step: int) -> None:
    """Delete the whole checkpoints of a run after ``step``, to which the run returned; damaged ones stay.

    Otherwise a resume would begin at the newest of them, which the run wrote when it was asked to end.

    Args:
        folder: folder or URI of the run.
    """
    system, root = open_filesystem(str(folder))
    for each in list_checkpoints(system, root):
        if each.description is not None and each.step > step:
            system.delete_dir(each.path)
