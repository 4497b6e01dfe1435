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
    checkpoint_name,
    choose_checkpoint,
    compare_hashes,
    list_checkpoints,
    verify_checkpoint,
)
from raysde.checkpoints.retention import Retention, rank_checkpoints
from raysde.io.filesystems import absolute_location, child_path, exists, hash_stream, open_filesystem
from raysde.training.beside import open_steps
from raysde.training.ranking import Ranking

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
    return _choose(storage, name, _fetcher(system, storage), say)


def _fetcher(system: pafs.FileSystem, storage: str) -> Callable[[Kept], Path]:
    """Return a function that returns a checkpoint's local folder, and raises ValueError if it is damaged."""

    def fetch_if_intact(each: Kept) -> Path:
        folder = Path(each.path) if is_local(storage) else _copy_checkpoint(system, each)
        try:
            verify_checkpoint(folder)
        except ValueError:
            discard_copy(folder)
            raise
        return folder

    return fetch_if_intact


def fetch_best_checkpoint(
    storage: str, name: str, ranking: Ranking, say: Callable[[str], None] | None = None
) -> Path | None:
    """Return the best checkpoint of a run, verified completely; None if no checkpoint has a value of the metric.

    A remote checkpoint is copied to a temporary folder, see :func:`discard_copy`.

    Args:
        ranking: metric that ranks the checkpoints.
        say: callback that receives a message for each better checkpoint that is damaged and passed over.

    Raises:
        ValueError: if there are ranked checkpoints and none is whole.
        RuntimeError: if the storage cannot be read.
    """
    system, _ = open_filesystem(child_path(absolute_location(storage), name))
    return _choose(
        storage,
        name,
        _fetcher(system, storage),
        say,
        order=lambda found: rank_checkpoints(found, ranking),
        which="best",
    )


def fetch_checkpoint(storage: str, name: str, step: int) -> Path:
    """Return the folder of the checkpoint of a step, copied as by :func:`fetch_newest_checkpoint` if it is remote.

    Raises:
        ValueError: if there is none.
        RuntimeError: if the storage cannot be read.
    """
    place = child_path(absolute_location(storage), name, checkpoint_name(step))
    try:
        if not exists(place):
            raise ValueError(f"{place} is missing; restore it")
        if is_local(storage):
            return Path(place)
        system, root = open_filesystem(place)
        return _copy_checkpoint(system, Kept(root, None))
    except OSError as error:
        raise RuntimeError(f"storage {storage} cannot be read: {' '.join(str(error).split())}") from error


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
    order: Callable[[list[Kept]], list[Kept]] = list,
    which: str = "newest",
) -> T | None:
    system, root = open_filesystem(child_path(absolute_location(storage), name))
    try:
        found = list_checkpoints(system, root)
        begun = [each for each in found if each.begun or is_local(storage)]
        if not begun and len(found) > 1:
            begun = found  # a run saves again only after a whole checkpoint, so one of these was whole
        if most is not None:
            begun = [each for each in begun if each.step <= most]
        return choose_checkpoint(order(begun), usable, child_path(storage, name), say, which)
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


def prune_checkpoints(folder: str | Path, keep: Retention, saved: int, base: int | None = None) -> None:
    """Delete the whole checkpoints of a run that are not to be kept.

    Damaged checkpoints and checkpoints after step ``saved`` stay: the run resumed from before them, perhaps because of
    tensors whose hashes are not compared here, and its user may repair or copy them. A folder in remote storage without
    checkpoint.json, which is uploaded last, is left over from a killed process and is deleted.

    The choice depends on the checkpoints in the folder alone. A run that was killed before it pruned therefore keeps
    the same checkpoints in the end.

    A checkpoint also stays while one of the newest lists its measurement as open: a resumed run measures it again.

    Args:
        folder: folder or URI of the run.
        keep: the checkpoints to keep; the one of step ``saved`` is the first of the newest.
        saved: step of the checkpoint that the run has just written.
        base: step of a checkpoint that stays too, because a bad step returns to it; None for none.
    """
    system, root = open_filesystem(str(folder))
    found = list_checkpoints(system, root)
    whole = [each for each in found if each.description is not None and each.step <= saved]
    states = [each.description.state for each in whole[: keep.newest] if each.description is not None]
    needed = {base}.union(*(open_steps(state) for state in states))
    old = [each for each in keep.choose_old(whole) if each.step not in needed]
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
