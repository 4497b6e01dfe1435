"""A run's metrics and pictures on disk until the tracking server has them."""

import json
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from raysde.images.png import png_metadata
from raysde.io.atomic import write_atomically
from raysde.io.errors import name_place_of_write


def spool_folder(name: str, run_id: str) -> Path:
    """Return the file of a run's spool, on the machine of its first worker."""
    return Path(tempfile.gettempdir()) / f"raysde-{name}-{run_id}.jsonl"


class Spool:
    """A file with a line for each step's metrics, and a folder of pictures beside it.

    Args:
        path: path of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.pictures = path, path.with_suffix(".pictures")

    @property
    def is_empty(self) -> bool:
        return not self.path.exists() and not self.pictures.exists()

    def take_over(
        self, lines: Sequence[dict[str, Any]] = (), pictures: Mapping[str, bytes] | None = None
    ) -> tuple[list[dict[str, Any]], list[Path]]:
        """Open the spool and return the lines and pictures that an earlier process left, in order.

        A torn last line is dropped: its step will be logged again.

        Args:
            lines, pictures: lines and pictures from a process on another machine, which come first.

        Raises:
            OSError: naming the file, if it cannot be written.
        """
        lines = [*lines, *(line for line in self._lines() if line not in lines)]
        with write_atomically(self.path, "metrics") as partial:
            self.pictures.mkdir(parents=True, exist_ok=True)
            for name, content in (pictures or {}).items():
                if not (self.pictures / name).exists():
                    (self.pictures / name).write_bytes(content)
            partial.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return lines, sorted(self.pictures.glob("*.png"), key=lambda path: path.stat().st_mtime_ns)

    def _lines(self) -> list[dict[str, Any]]:
        result = []
        for line in self.path.read_text().splitlines() if self.path.exists() else []:
            try:
                result.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return result

    def add_metrics(self, step: int, values: Mapping[str, float]) -> dict[str, Any]:
        """Write metrics of a step, and return the line as :meth:`take_over` returns it."""
        return self._add({"step": step, "time": int(time.time() * 1000), "values": dict(values)})

    def add_tags(self, tags: Mapping[str, str]) -> dict[str, Any]:
        """Write tags of the run, and return the line as :meth:`take_over` returns it."""
        return self._add({"tags": dict(tags)})

    def _add(self, line: dict[str, Any]) -> dict[str, Any]:
        with name_place_of_write("metrics", self.path), self.path.open("a") as out:
            out.write(json.dumps(line) + "\n")
        return line

    def add_picture(self, step: int, name: str, image: Image.Image) -> Path:
        """Write a picture of a step atomically, and return its file.

        Raises:
            OSError: naming the file, if it cannot be written.
        """
        path = self.pictures / f"{name}-{step:07d}.png"
        with write_atomically(path, "a picture") as partial:
            image.save(partial, format="PNG", pnginfo=png_metadata(image.info))
        return path

    def forget_metrics(self) -> None:
        """Delete the metrics, once the server has them."""
        self.path.unlink(missing_ok=True)

    def forget_pictures(self) -> None:
        """Delete the pictures, once the server has them."""
        shutil.rmtree(self.pictures, ignore_errors=True)
