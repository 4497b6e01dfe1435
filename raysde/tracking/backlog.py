"""Metrics and pictures that had not reached the tracking server when a checkpoint was written.

STORAGE/NAME/unsent-RUN/metrics.jsonl   lines of a spool
STORAGE/NAME/unsent-RUN/NAME-STEP.png   pictures

A spool lies on the machine of the first worker, which may never come back. What was logged after the newest checkpoint
is computed again; what was logged before it is here.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from raysde.io.filesystems import absolute_location, child_path, open_filesystem, read_bytes, write_bytes

LINES = "metrics.jsonl"


def backlog_folder(run: str, run_id: str) -> str:
    """Return the place of a run's backlog.

    Args:
        run: folder or URI of the run.
        run_id: of its MLflow run.
    """
    return child_path(absolute_location(run), f"unsent-{run_id}")


class Backlog:
    """A folder of lines and pictures that wait.

    Args:
        folder: local or a URI; it is there as long as something waits.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    @property
    def is_empty(self) -> bool:
        return not self._names()

    def keep(self, lines: Sequence[Mapping[str, Any]], pictures: Iterable[Path]) -> None:
        """Replace what is here by what waits now."""
        write_bytes(child_path(self.folder, LINES), "".join(json.dumps(line) + "\n" for line in lines).encode())
        here = set(self._names())
        for path in pictures:
            if path.name not in here and path.exists():  # one that has arrived meanwhile is gone
                write_bytes(child_path(self.folder, path.name), path.read_bytes())

    def take(self) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
        """Return the lines, and the pictures by the names of their files."""
        names = self._names()
        text = read_bytes(child_path(self.folder, LINES)).decode() if LINES in names else ""
        pictures = {name: read_bytes(child_path(self.folder, name)) for name in sorted(names) if name.endswith(".png")}
        return [json.loads(line) for line in text.splitlines()], pictures

    def forget(self) -> None:
        """Delete everything once the server has it."""
        system, root = open_filesystem(self.folder)
        if system.get_file_info(root).type == pafs.FileType.Directory:
            system.delete_dir(root)

    def _names(self) -> list[str]:
        system, root = open_filesystem(self.folder)
        found = system.get_file_info(pafs.FileSelector(root, allow_not_found=True))
        return [entry.base_name for entry in found if not entry.base_name.startswith(".")]
