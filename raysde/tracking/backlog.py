"""Metrics and pictures that the tracking server did not have yet when a checkpoint was written.

STORAGE/NAME/unsent-RUN/metrics.jsonl   lines of a spool
STORAGE/NAME/unsent-RUN/NAME-STEP.png   pictures

A spool lies on the machine of the first worker, which may never come back. Steps after the newest checkpoint are
computed again; unsent entries from before it are in the backlog.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from raysde.io.filesystems import absolute_location, child_path, open_filesystem, read_bytes, write_bytes

LINES = "metrics.jsonl"


def backlog_folder(run: str, run_id: str) -> str:
    """Return the folder of a run's backlog.

    Args:
        run: folder or URI of the run.
        run_id: id of its MLflow run.
    """
    return child_path(absolute_location(run), f"unsent-{run_id}")


class Backlog:
    """A folder of unsent lines and pictures.

    Args:
        folder: local folder or URI; it exists only while something is unsent.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    @property
    def is_empty(self) -> bool:
        return not self._names()

    def keep(self, lines: Sequence[Mapping[str, Any]], pictures: Iterable[Path]) -> None:
        """Replace the lines in the backlog by ``lines``, and add the picture files that are not in it.

        Raises:
            OSError: naming the file, if it cannot be written.
        """
        write_bytes(child_path(self.folder, LINES), "".join(json.dumps(line) + "\n" for line in lines).encode())
        here = set(self._names())
        for path in pictures:
            if path.name not in here and path.exists():  # a picture that the server has meanwhile is deleted
                write_bytes(child_path(self.folder, path.name), path.read_bytes())

    def take(self) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
        """Return the lines, and the pictures by file name."""
        names = self._names()
        text = read_bytes(child_path(self.folder, LINES)).decode() if LINES in names else ""
        pictures = {name: read_bytes(child_path(self.folder, name)) for name in sorted(names) if name.endswith(".png")}
        return [json.loads(line) for line in text.splitlines()], pictures

    def forget(self) -> None:
        """Delete the backlog, once the server has everything."""
        system, root = open_filesystem(self.folder)
        if system.get_file_info(root).type == pafs.FileType.Directory:
            system.delete_dir(root)

    def _names(self) -> list[str]:
        system, root = open_filesystem(self.folder)
        found = system.get_file_info(pafs.FileSelector(root, allow_not_found=True))
        return [entry.base_name for entry in found if not entry.base_name.startswith(".")]
