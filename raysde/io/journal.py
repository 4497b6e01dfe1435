"""A journal of a job with many units of work: the identity of the job, and a record of each finished unit.

PLAN                 the identity of the job in JSON, written first
FOLDER/unit-3.json   a finished unit; each kind of job has its own file name pattern

Every file is written atomically. A job that was killed at any time resumes from the records.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.fs as pafs

from raysde.io.filesystems import child_path, exists, open_filesystem, read_bytes, write_json
from raysde.io.parallel import map_ahead


@dataclass(frozen=True)
class Journal:
    """Files of one job; each worker has a copy of the journal and records the units that it finishes.

    Attributes:
        plan: path or URI of the job's identity.
        folder: path or URI of the records' folder.
        form: file name pattern of the records, such as ``unit-{:06d}.json``.
    """

    plan: str
    folder: str
    form: str = "{}.json"

    def begin(self, identity: Any, other: Callable[[Any, Any], str | None]) -> bool:
        """Write the plan; return True if the same job was begun here before.

        Args:
            identity: everything that the units depend on, as JSON values.
            other: called with the existing plan and the wanted one; returns the message that refuses the job, or None
                if the plans agree.

        Raises:
            ValueError: with the message of ``other``, or if the plan is damaged.
        """
        wanted = json.loads(json.dumps(identity))
        if exists(self.plan):
            if said := other(read_record(self.plan), wanted):
                raise ValueError(said)
            return True
        system, inside = open_filesystem(self.folder)
        system.create_dir(inside, recursive=True)
        write_json(self.plan, wanted)
        return False

    def place(self, unit: int | str) -> str:
        """Return the path of a unit's record."""
        return child_path(self.folder, self.form.format(unit))

    def keep(self, unit: int | str, content: Any) -> None:
        """Record a unit as finished, or update its record."""
        write_json(self.place(unit), content)

    def records(self) -> Iterator[tuple[int, Any]]:
        """Yield the number and content of each record, sorted by number.

        Raises:
            ValueError: naming a damaged record.
        """
        before, after = re.fullmatch(r"(.*)\{.*\}(.*)", self.form).groups()  # type: ignore[union-attr]
        name = re.compile(re.escape(before) + r"(\d+)" + re.escape(after))
        system, inside = open_filesystem(self.folder)
        found = system.get_file_info(pafs.FileSelector(inside, allow_not_found=True))
        numbers = {int(match[1]): entry.base_name for entry in found if (match := name.fullmatch(entry.base_name))}
        places = (child_path(self.folder, numbers[number]) for number in sorted(numbers))
        yield from zip(sorted(numbers), map_ahead(read_record, places), strict=True)

    def forget(self) -> None:
        """Delete the folder of the records after the job is done."""
        system, inside = open_filesystem(self.folder)
        system.delete_dir(inside)


def read_record(place: str) -> Any:
    """Return the content of a journal file.

    Raises:
        ValueError: naming the file, if it is damaged.
    """
    try:
        return json.loads(read_bytes(place))
    except ValueError as error:  # not OSError: an outage of the storage does not mean damage
        raise ValueError(f"{place} is damaged: {error}") from None


def has_whole_files(folder: str, sizes: Mapping[str, int]) -> bool:
    """Return True if the folder holds every file of a unit with its recorded size in bytes."""
    system, inside = open_filesystem(folder)
    found = system.get_file_info([f"{inside}/{name}" for name in sizes])
    return [entry.size for entry in found] == list(sizes.values())
