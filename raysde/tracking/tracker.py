"""The transfer of a run's metrics and pictures to MLflow, without waiting, loss or duplicates."""

import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from raysde.io.errors import TakenOver
from raysde.tracking.backlog import Backlog
from raysde.tracking.outbox import Outbox
from raysde.tracking.spool import Spool

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

LINES_AT_ONCE, METRICS_AT_ONCE = 200, 1000
REFUSED = "INVALID_PARAMETER_VALUE"
"""MLflow's error code for entries that it will never accept. Other codes may pass: BAD_REQUEST is also raised by a full
pool of database connections, PERMISSION_DENIED also by an expired token."""


class Tracker:
    """A sink that sends a run's metrics and pictures from its own threads; the training loop never waits for it.

    Both are written to disk first and sent in order. While the server is away they queue on disk, and arrive later,
    also after a restart. A metric is never logged twice at the same step.

    Args:
        spool: file of the metrics; the folder of pictures is beside it.
        backlog: folder or URI beside the run's checkpoints, see :mod:`raysde.tracking.backlog`; None for none.
        confirm: raises :class:`raysde.io.errors.TakenOver` if the run is another command's now; called before anything
            is sent. Afterwards this tracker sends nothing, and leaves the files to that command.
    """

    def __init__(
        self,
        uri: str,
        run_id: str,
        spool: Path,
        backlog: str | None = None,
        confirm: Callable[[], None] | None = None,
    ) -> None:
        self.uri, self.run_id = uri, run_id
        self.spool = Spool(spool)
        self.backlog = None if backlog is None else Backlog(backlog)
        self.confirm, self.taken_over = confirm, False
        self.logged: dict[str, set[int]] | None = None
        left = ([], {}) if self.backlog is None else self.backlog.take()
        self.behind = any(left)
        lines, pictures = self.spool.take_over(*left)
        self.lines = Outbox("MLflow metrics", self._send_metrics, is_refused, LINES_AT_ONCE)
        self.images = Outbox("MLflow pictures", self._send_picture, is_refused, 1)
        for line in lines:
            self.lines.put(line)
        for path in pictures:
            self.images.put(path)

    @cached_property
    def client(self) -> "MlflowClient":
        """Client of the store. The threads that send import MLflow, which takes seconds: training goes on."""
        from mlflow.tracking import MlflowClient

        from raysde.tracking.store import shorten_timeouts

        shorten_timeouts(self.uri)
        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Queue metrics of a step."""
        self.lines.put(self.spool.add_metrics(step, values))

    def tags(self, tags: Mapping[str, str]) -> None:
        """Queue tags of the run."""
        self.lines.put(self.spool.add_tags(tags))

    def image(self, step: int, name: str, image: Image.Image) -> None:
        """Queue a picture of optimizer step ``step`` as ``samples/NAME-STEP.png``."""
        self.images.put(self.spool.add_picture(step, name, image))

    def drain(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds for the entries queued so far, and return True if all were logged."""
        end = time.monotonic() + timeout
        return self.lines.drain(timeout) and self.images.drain(max(0.0, end - time.monotonic()))

    def secure(self, timeout: float) -> None:
        """Wait at most ``timeout`` seconds as :meth:`drain` does, and write unsent entries beside the checkpoints.

        Call it before a checkpoint is saved: a run that resumes from it does not log these steps again, and may resume
        on another machine.
        """
        arrived = self.drain(timeout)
        if self.backlog is None or self._is_taken_over():
            return
        if not arrived:
            self.backlog.keep(self.lines.unsent(), self.images.unsent())
        elif self.behind:
            self.backlog.forget()
        self.behind = not arrived

    def close(self, timeout: float = 60.0) -> bool:
        """Wait at most ``timeout`` seconds, and return True if everything was logged; the rest stays on disk."""
        end = time.monotonic() + timeout
        sent = self.lines.close(timeout)
        if self._is_taken_over():
            return False
        if not sent:
            return self._left()
        self.spool.forget_metrics()
        if not self.images.close(max(0.0, end - time.monotonic())):
            return self._left()
        self.spool.forget_pictures()
        if self.backlog is not None and self.behind:
            self.backlog.forget()
        return True

    def _is_taken_over(self) -> bool:
        """Return True if the run is known to be another command's."""
        if self.confirm is not None and not self.taken_over:
            try:
                self.confirm()
            except TakenOver:
                self.taken_over = True
            except OSError:
                pass  # storage that cannot be read leaves it open
        return self.taken_over

    def _left(self) -> bool:
        self.secure(0.0)
        return False

    def _send_metrics(self, lines: list[dict[str, Any]]) -> None:
        """Send the metrics that the server does not have. If its answer was lost and they are sent again, they are
        stored once, because MLflow merges metrics with equal time, step and value."""
        from mlflow.entities import Metric  # see client

        from raysde.tracking.runs import list_logged_steps, set_tags

        if self.logged is None:
            self.logged = list_logged_steps(self.client, self.run_id)
        new: dict[tuple[str, int], Metric] = {}
        for line in lines:
            for key, value in line.get("values", {}).items():
                # a step that an outage delayed may come after later steps
                if line["step"] not in self.logged.get(key, ()):
                    new.setdefault((key, line["step"]), Metric(key, value, line["time"], line["step"]))
        metrics = list(new.values())
        if self.confirm is not None:
            self.confirm()
        for start in range(0, len(metrics), METRICS_AT_ONCE):
            self.client.log_batch(self.run_id, metrics=metrics[start : start + METRICS_AT_ONCE])
        if tags := {key: value for line in lines for key, value in line.get("tags", {}).items()}:
            set_tags(self.client, self.run_id, tags)
        for key, step in new:
            self.logged.setdefault(key, set()).add(step)

    def _send_picture(self, paths: list[Path]) -> None:
        if self.confirm is not None:
            self.confirm()
        for path in paths:
            if path.exists():  # a picture of the same step may have been queued twice
                self.client.log_artifact(self.run_id, str(path), "samples")
                path.unlink()


def is_refused(error: Exception) -> bool:
    """Return True if MLflow will never accept the entry."""
    from mlflow.exceptions import MlflowException

    return isinstance(error, MlflowException) and error.error_code == REFUSED


def deliver_leftovers(uri: str, run_id: str, spool: Path, backlog: str | None = None, timeout: float = 60.0) -> bool:
    """Send the entries that an earlier process left on disk and beside its checkpoints; return True if none is left.

    ``timeout`` is the longest wait in seconds.
    """
    if Spool(spool).is_empty and (backlog is None or Backlog(backlog).is_empty):
        return True
    return Tracker(uri, run_id, spool, backlog).close(timeout)
