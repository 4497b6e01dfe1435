"""Temporary folders that the processes of a node share, prepared by one of them and removed by the last one.

TEMP/raysde-node-UID-KEY/users   a lock that every user of the folder shares; who gets it alone may remove the folder
TEMP/raysde-node-UID-KEY/work    a lock of the process that prepares the folder
TEMP/raysde-node-UID-KEY/ready   exists once the folder is prepared

The system releases the locks of a killed process, so the next process on the node finds and removes what it left.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

PREFIX = "raysde-node-"


@contextmanager
def shared_folder(key: str, prepare: Callable[[Path], None]) -> Iterator[Path]:
    """Yield a folder that the first process on this node has prepared. The last process that leaves removes it.

    Processes that must find it prepared have to agree when to leave, for example at a barrier.

    Args:
        key: name of the content, of letters and digits.
        prepare: fills the folder; its error is raised, and the next process calls its own.
    """
    remove_abandoned()
    folder = Path(tempfile.gettempdir()) / f"{PREFIX}{os.getuid()}-{key}"
    users = _enter(folder)
    try:
        with (folder / "work").open("w") as work:
            fcntl.flock(work, fcntl.LOCK_EX)
            if not (folder / "ready").exists():
                prepare(folder)
                (folder / "ready").touch()
        yield folder
    finally:
        _remove_unused(folder, users)
        os.close(users)


def remove_abandoned() -> None:
    """Remove the folders whose users were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}{os.getuid()}-*"):
        try:
            users = os.open(folder / "users", os.O_RDWR)
        except OSError:  # being made or removed just now
            continue
        _remove_unused(folder, users)
        os.close(users)


def _enter(folder: Path) -> int:
    """Return the open lock of a folder's users, shared; the folder is made if it does not exist.

    Raises:
        PermissionError: if somebody else has made the folder.
    """
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if folder.stat().st_uid != os.getuid():
                raise PermissionError(f"{folder} belongs to another user; remove it")
            users = os.open(folder / "users", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(users, fcntl.LOCK_SH)
            if _is_open(folder / "users", users):
                return users
            os.close(users)  # removed while this process waited


def _is_open(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _remove_unused(folder: Path, users: int) -> None:
    """Remove a folder if no other process uses it; this process no longer uses it."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fcntl.flock(users, fcntl.LOCK_UN)
        return
    if _is_open(folder / "users", users):
        gone = folder.with_name(f"{folder.name}.{uuid4().hex}")  # at once: nobody enters a folder half removed
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
