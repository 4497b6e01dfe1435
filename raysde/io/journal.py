"""The journal of a job of many units: what the job is, and a record of each unit that is finished.

PLAN                 the identity of the job in JSON, written first
FOLDER/unit-3.json   a finished unit, by a form of name that each kind of job has of its own

Every file is written whole or not at all, so that a job that was killed at any time goes on with what is recorded.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.fs as pafs

from raysde.io.filesystems import child_path, exists, open_filesystem, read_bytes, write_json


@dataclass(frozen=True)
class Journal:
    """Files of one job; a copy of the journal in each worker records what that worker finishes.

    Attributes:
        plan: file of the job's identity, a local path or a URI.
        folder: folder or URI of the records.
        form: names of the records, such as ``unit-{:06d}.json``.
    """

    plan: str
    folder: str
    form: str = "{}.json"

    def begin(self, identity: Any, other: Callable[[Any, Any], str | None]) -> bool:
        """Write the plan, or find that the same job was begun here; return True if it was.

        Args:
            identity: everything that the units depend on, as JSON values.
            other: called with the plan that is here and the one that is wanted. It returns the sentence that refuses
                the job, or None if the two are the same.

        Raises:
            ValueError: with the sentence of ``other``, or if the plan is damaged.
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
        """Return the file of a unit's record."""
        return child_path(self.folder, self.form.format(unit))

    def keep(self, unit: int | str, content: Any) -> None:
        """Record a unit as finished, or in a new state."""
        write_json(self.place(unit), content)

    def records(self) -> Iterator[tuple[int, Any]]:
        """Yield the number and the content of each record, by number.

        Raises:
            ValueError: naming a record that is damaged.
        """
        before, after = re.fullmatch(r"(.*)\{.*\}(.*)", self.form).groups()  # type: ignore[union-attr]
        name = re.compile(re.escape(before) + r"(\d+)" + re.escape(after))
        system, inside = open_filesystem(self.folder)
        found = system.get_file_info(pafs.FileSelector(inside, allow_not_found=True))
        numbers = {int(match[1]): entry.base_name for entry in found if (match := name.fullmatch(entry.base_name))}
        for number in sorted(numbers):
            yield number, read_record(child_path(self.folder, numbers[number]))

    def forget(self) -> None:
        """Delete the folder of the records once their job is done."""
        system, inside = open_filesystem(self.folder)
        system.delete_dir(inside)


def read_record(place: str) -> Any:
    """Return the content of a journal's file.

    Raises:
        ValueError: naming the file, if it is damaged.
    """
    try:
        return json.loads(read_bytes(place))
    except ValueError as error:  # an outage of the storage says nothing of the file
        raise ValueError(f"{place} is damaged: {error}") from None


def has_whole_files(folder: str, sizes: Mapping[str, int]) -> bool:
    """Return True if every file that a unit made is in a folder, with the size that its record says."""
    system, inside = open_filesystem(folder)
    found = system.get_file_info([f"{inside}/{name}" for name in sizes])
    return [entry.size for entry in found] == list(sizes.values())
