"""The claims of a run: files that say which processes hold it, numbered on.

STORAGE/NAME/lease/000000007.json   the seventh claim

A claim is a file that must not exist before. pyarrow has no such write for object stores: there a claim is written, and
read back after :data:`SETTLE` seconds. Two commands could both succeed if one of them paused for longer than that
between its look and its write; the next look of the first one shows it that it lost.
"""

import contextlib
import json
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow.fs as pafs

from raysde.io.errors import name_place_of_write
from raysde.io.filesystems import absolute_location, child_path, open_filesystem, read_bytes, write_bytes
from raysde.io.processes import Process

FOLDER = "lease"
SETTLE = 2.0
"""Seconds after which a claim in an object store is read back."""
TORN = 60.0
"""Seconds that a torn claim holds."""


@dataclass(frozen=True)
class Claim:
    """The content of one file.

    Attributes:
        number: number of the file.
        word: identifies the command; empty if the file is torn.
        beat: a random word, new at each renewal.
        seconds: how long the claim holds after its last beat.
        holders: the command, then on Ray the worker that writes checkpoints.
        released: True once the command ended in an orderly way.
    """

    number: int
    word: str
    beat: str
    seconds: float
    holders: tuple[Process, ...]
    released: bool = False

    @property
    def is_free(self) -> bool:
        """True if the claim was released, or all its holders are known to have ended."""
        return self.released or (bool(self.holders) and all(holder.is_gone() for holder in self.holders))

    @property
    def is_alive(self) -> bool:
        """True if the command is known to live; False also if that is unknown."""
        return not self.released and bool(self.holders) and self.holders[0].is_running()

    @property
    def command(self) -> str:
        """The command that holds the run, for messages."""
        return f"process {self.holders[0].pid} on {self.holders[0].host}" if self.holders else "another command"


class Claims:
    """The claims of one run.

    Args:
        folder: folder of the run, local or a URI.
    """

    def __init__(self, folder: str) -> None:
        self.name = folder.partition("?")[0].rstrip("/").rpartition("/")[2]
        self.place = child_path(absolute_location(folder), FOLDER)
        self.system, self.root = open_filesystem(self.place)

    def newest(self) -> Claim | None:
        """Return the newest claim; None if there is none.

        Raises:
            OSError: if the storage cannot be read.
        """
        while numbers := self._numbers():
            try:
                return _parse(numbers[-1], read_bytes(self._file(numbers[-1])))
            except FileNotFoundError:
                continue  # a later claim has just replaced it
        return None

    def add(self, claim: Claim) -> bool:
        """Add a claim, and delete older ones; return False if there is another claim of its number.

        Raises:
            OSError: naming the file, if it cannot be written.
        """
        local = isinstance(self.system, pafs.LocalFileSystem)
        if not (self._create(claim) if local else self._contend(claim)):
            return False
        self.forget_before(claim.number)
        return True

    def _create(self, claim: Claim) -> bool:
        file = Path(self._file(claim.number))
        with name_place_of_write("the lease", file):
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                with file.open("xb") as out:
                    out.write(_format(claim))
            except FileExistsError:
                return False
            except OSError:
                file.unlink(missing_ok=True)
                raise
        return True

    def _contend(self, claim: Claim) -> bool:
        if claim.number in self._numbers():
            return False
        self.system.create_dir(self.root, recursive=True)
        self.write(claim)
        time.sleep(SETTLE)
        return read_bytes(self._file(claim.number)) == _format(claim)

    def write(self, claim: Claim) -> None:
        """Write a claim that its holder made.

        Raises:
            OSError: naming the file, if it cannot be written.
        """
        write_bytes(self._file(claim.number), _format(claim))

    def forget_before(self, number: int) -> None:
        """Delete claims before a number."""
        for each in self._numbers():
            if each < number:
                with contextlib.suppress(FileNotFoundError):
                    self.system.delete_file(f"{self.root}/{_file_name(each)}")

    def _numbers(self) -> list[int]:
        found = self.system.get_file_info(pafs.FileSelector(self.root, allow_not_found=True))
        return sorted(int(each.base_name[:-5]) for each in found if re.fullmatch(r"\d{9}\.json", each.base_name))

    def _file(self, number: int) -> str:
        return child_path(self.place, _file_name(number))


def _file_name(number: int) -> str:
    return f"{number:09d}.json"


def _format(claim: Claim) -> bytes:
    stored = {key: value for key, value in asdict(claim).items() if key != "number"}
    return (json.dumps(stored, indent=1) + "\n").encode()


def _parse(number: int, content: bytes) -> Claim:
    """Return a claim; a torn file, of a command that was killed while it wrote, has no holders."""
    try:
        stored = json.loads(content)
        return Claim(number, **{**stored, "holders": tuple(Process(**each) for each in stored["holders"])})
    except (ValueError, TypeError, KeyError):
        return Claim(number, "", repr(content), TORN, ())
