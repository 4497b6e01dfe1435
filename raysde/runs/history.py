"""The metrics and pictures of a run without Ray: files in the run's folder, or MLflow if the recipe names a store.

RUN/metrics.jsonl           a line for each log entry: step, time in Unix seconds, and the metrics
RUN/samples/grid-STEP.png   sample grids
"""

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from raysde.checkpoints import checkpoint, storage
from raysde.images.png import png_metadata
from raysde.io.atomic import write_atomically
from raysde.io.errors import name_place_of_write
from raysde.io.filesystems import child_path
from raysde.runs import identity
from raysde.runs.data_record import record_data
from raysde.runs.hooks import Sink
from raysde.runs.lease import Lease
from raysde.runs.run import Run, check_resumable, identity_settings
from raysde.tracking.spool import spool_folder

if TYPE_CHECKING:
    from raysde.tracking import MlflowClient

METRICS, PICTURES = "metrics.jsonl", "samples"


class History:
    """A sink that writes metrics and pictures to a folder, each step's once.

    Args:
        folder: folder of the run.
        start: step that the run resumes from. The first entry deletes what an earlier process wrote about later steps,
            because those steps are trained again. So does an entry about an earlier step than the last one, after a
            return to a checkpoint.
    """

    def __init__(self, folder: Path, start: int) -> None:
        self.file, self.pictures = folder / METRICS, folder / PICTURES
        self.start, self.last, self.is_open = start, start, False

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Append a line with the metrics of a step; a value that is not finite becomes null.

        Raises:
            OSError: naming the file, if it cannot be written.
        """
        self._open(step)
        finite = {key: value if math.isfinite(value) else None for key, value in values.items()}
        with name_place_of_write("metrics", self.file), self.file.open("a") as out:
            out.write(json.dumps({"step": step, "time": round(time.time(), 3), **finite}) + "\n")

    def image(self, step: int, name: str, image: Image.Image) -> None:
        """Write a picture of a step atomically.

        Raises:
            OSError: naming the file, if it cannot be written.
        """
        self._open(step)
        with write_atomically(self.pictures / f"{name}-{step:09d}.png", "a picture") as partial:
            image.save(partial, format="PNG", pnginfo=png_metadata(image.info))

    def _open(self, step: int) -> None:
        """Prepare for an entry about a step: delete entries about steps that are trained again."""
        if not self.is_open:
            self._forget_after(self.start)
        elif step < self.last:
            self._forget_after(step - 1)
        self.is_open, self.last = True, step

    def _forget_after(self, last: int) -> None:
        """Delete the entries and pictures of steps after ``last``."""
        kept = [line for line in read_metrics(self.file) if line["step"] <= last]
        with write_atomically(self.file, "metrics") as partial:
            partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
        for path in self.pictures.glob("*-*.png"):
            step = path.stem.rpartition("-")[2]
            if step.isdigit() and int(step) > last:
                path.unlink()


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics file, up to a line that a kill cut short; an empty list if there is no file."""
    lines: list[dict[str, Any]] = []
    for text in file.read_text().splitlines() if file.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


class Both:
    """A :class:`raysde.runs.hooks.Sink` that passes everything on to two others."""

    def __init__(self, first: Sink, second: Sink) -> None:
        self.sinks = (first, second)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        for sink in self.sinks:
            sink.metrics(step, values)

    def image(self, step: int, name: str, image: Image.Image) -> None:
        for sink in self.sinks:
            sink.image(step, name, image)


@contextmanager
def record_history(run: Run, shown: Sink, lease: Lease | None = None) -> Iterator[Sink]:
    """Yield a sink that records metrics and pictures, and passes them on to ``shown``.

    Under torchrun only rank 0 records.

    Args:
        lease: the command's lease of the run; None for none.

    Raises:
        ValueError: if ``tracking.uri`` is invalid, or the run has checkpoints of another recipe.
        RuntimeError: if the MLflow store fails.
    """
    if os.environ.get("RANK", "0") != "0":
        yield shown
        return
    found = storage.fetch_newest_checkpoint(run.config.storage, run.config.name)
    start = 0
    if found is not None:
        description = checkpoint.read_description(found)
        check_resumable(run, description)  # before the MLflow run is reopened
        start = description.step
    # also without MLflow: resumed with a store, the run must not be taken for an older one of its name
    word, folder = settle_run_word(run), run_folder(run)
    if run.config.tracking.uri is None:
        yield Both(History(Path(folder), start), shown)
    else:
        with track_run(run, run.config.tracking.uri, word, lease) as sink:
            yield Both(sink, shown)
    identity.note_end(folder)


@contextmanager
def track_run(run: Run, uri: str, word: str, lease: Lease | None = None) -> Iterator[Sink]:
    """Yield a sink into the run's MLflow run, which is marked as finished, failed or killed when the context ends.

    Args:
        word: the run's identity, see :mod:`raysde.runs.identity`.
        lease: the command's lease of the run; without it nothing is sent.

    Raises:
        Interrupted: at Ctrl-C or SIGTERM; the message tells how to resume.
        RuntimeError: if the MLflow store fails.
    """
    from raysde import tracking

    config, client = run.config, tracking.connect_client(uri)
    run_id = open_tracking_run(run, client, uri, word)
    spool = spool_folder(config.name, run_id)
    sink = tracking.Tracker(uri, run_id, spool, confirm=None if lease is None else lease.confirm)
    with tracking.mark_runs(client, lambda: [run_id], lambda: identity.describe_interruption(run_folder(run))):
        try:
            yield sink
        except BaseException:
            sink.close()
            raise
    if not sink.close():
        print("MLflow did not take all metrics in time; the rest is kept in", spool)
    with tracking.report_server_errors(uri):
        tracking.finish_run(client, run_id)


def settle_run_word(run: Run) -> str:
    """Return the identity word of a run, see :func:`raysde.runs.identity.settle_word`.

    The run's data are recorded too, see :mod:`raysde.runs.data_record`.

    Raises:
        ValueError: if the identity file is damaged.
    """
    folder = run_folder(run)
    record_data(run.config, run.sources.sources)
    return identity.settle_word(folder, identity_settings(run), begun=bool(identity.list_steps(folder)))


def run_folder(run: Run) -> str:
    """Return the absolute folder of a run, or its URI."""
    return child_path(storage.absolute_location(run.config.storage), run.config.name)


def open_tracking_run(run: Run, client: "MlflowClient", uri: str, word: str) -> str:
    """Return the id of the MLflow run with this identity word; create the MLflow run if there is none.

    Raises:
        RuntimeError: if the MLflow store fails.
    """
    from raysde import tracking

    config, manifest = run.config, run.manifest
    data = tracking.Input(manifest.path, manifest.fingerprint, manifest.rows)
    place = tracking.default_artifact_root(uri)
    with tracking.report_server_errors(uri):
        return tracking.open_mlflow_run(
            client, config.tracking.experiment, config.name, config.flat(), place, data, word=word
        )
