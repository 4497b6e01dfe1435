"""Atomic writes of files and folders, also when the writer is killed or fails."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raysde.io.atomic import is_partial, write_atomically, write_folder_atomically

KILLED = """
import os, signal, sys
from pathlib import Path
from raysde.io.atomic import write_atomically, write_folder_atomically

place = Path(sys.argv[2])
if sys.argv[1] == "file":
    with write_atomically(place, "a file") as partial:
        partial.write_text("new")
        os.kill(os.getpid(), signal.SIGKILL)
else:
    with write_folder_atomically(place, "a folder", replace=True) as partial:
        (partial / "torn").write_text("new")
        os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(kind: str, place: Path) -> None:
    """Write a file or folder in a process that is killed before the rename."""
    ended = subprocess.run([sys.executable, "-c", KILLED, kind, str(place)], timeout=60)
    assert ended.returncode == -signal.SIGKILL


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_killed_writer_leaves_the_file_as_it_was(tmp_path):
    """The partial file beside it is recognised as partial and does not hinder the next writer."""
    place = tmp_path / "a.json"
    place.write_text("old")
    killed("file", place)
    (left,) = names(tmp_path) - {"a.json"}
    assert is_partial(left)
    assert place.read_text() == "old"
    with write_atomically(place, "a file") as partial:
        partial.write_text("next")
        assert partial.name != left
        assert place.read_text() == "old"
    assert place.read_text() == "next"


def test_a_killed_writer_leaves_the_folder_as_it_was(tmp_path):
    """The next writer begins with an empty folder and replaces the old one."""
    place = tmp_path / "model"
    place.mkdir()
    (place / "weights").write_text("old")
    killed("folder", place)
    assert names(tmp_path) == {"model", ".model.partial"}
    assert (names(place), (place / "weights").read_text()) == ({"weights"}, "old")
    with write_folder_atomically(place, "a folder", replace=True) as partial:
        (partial / "other").write_text("next")
        assert names(place) == {"weights"}
    assert (names(tmp_path), names(place)) == ({"model"}, {"other"})


def test_a_folder_of_somebody_is_replaced_only_if_asked(tmp_path):
    """The folder may appear after the caller looked."""
    place = tmp_path / "model"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "weights").write_text("somebody's")

    def late() -> None:
        with write_folder_atomically(place, "the model"):
            (tmp_path / "other").rename(place)

    with pytest.raises(OSError, match=rf"the model cannot be written to {place}: "):
        late()
    assert (place / "weights").read_text() == "somebody's"


@pytest.mark.parametrize(
    ("error", "raised"), [(OSError(28, "No space left on device"), OSError), (ValueError("x"), ValueError)]
)
@pytest.mark.parametrize("whole", [write_atomically, write_folder_atomically])
def test_an_error_leaves_nothing_and_a_full_disk_is_named(tmp_path, whole, error, raised):
    """Errors other than those of the disk keep their own message."""
    place = tmp_path / "new" / "a"

    def failing() -> None:
        with whole(place, "the thing") as partial:
            (partial if whole is write_atomically else partial / "b").write_text("new")
            raise error

    with pytest.raises(raised) as caught:
        failing()
    assert names(tmp_path / "new") == set()
    named = f"the thing cannot be written to {place}: [Errno 28] No space left on device"
    assert str(caught.value) == (named if raised is OSError else "x")


def test_a_folder_that_cannot_be_renamed_leaves_the_old_one(tmp_path, monkeypatch):
    """The old folder is moved away, and is back after the error; until then nothing of it is deleted."""
    folder, seen = tmp_path / "data", []
    folder.mkdir()
    (folder / "a").write_text("old")
    rename = os.replace

    def fail(source, target):
        if Path(source).name == ".data.partial":
            seen.append([path.read_text() for path in tmp_path.rglob("a") if path.parent.name != ".data.partial"])
            raise OSError(errno.EIO, "the disk is gone")
        rename(source, target)

    monkeypatch.setattr("os.replace", fail)
    with (
        pytest.raises(OSError, match="the disk is gone"),
        write_folder_atomically(folder, "shards", replace=True) as new,
    ):
        (new / "a").write_text("new")
    assert seen == [["old"]]
    assert (folder / "a").read_text() == "old"
