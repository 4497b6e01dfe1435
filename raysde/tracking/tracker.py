"""A run's metrics and pictures on their way to MLflow: they never wait, are never lost and are never logged twice."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from PIL import Image

from raysde.outbox import Outbox
from raysde.spool import Spool
from raysde.tracking.runs import last_steps
from raysde.tracking.store import short_timeouts

LINES_AT_ONCE, METRICS_AT_ONCE = 200, 1000
REFUSED = "INVALID_PARAMETER_VALUE"
"""MLflow's word for what it will never take. Others pass: BAD_REQUEST is also a database whose connections are all in
use, PERMISSION_DENIED also a token that has run out."""


class Tracker:
    """Writes a run's metrics and pictures from threads of its own; the training loop never waits for it.

    Both are first written to disk, and leave it in order: with the server away they queue there and arrive when it is
    back, also after a restart. A metric is never logged twice at the same step.

    Args:
        spool: the file of the metrics; the pictures' folder is beside it.
    """

    def __init__(self, uri: str, run_id: str, spool: Path) -> None:
        short_timeouts(uri)
        self.client, self.run_id = MlflowClient(tracking_uri=uri, registry_uri=uri), run_id
        self.spool = Spool(spool)
        self.logged: dict[str, int] | None = None
        lines, pictures = self.spool.take_over()
        self.lines = Outbox("MLflow metrics", self._send_metrics, is_refused, LINES_AT_ONCE)
        self.images = Outbox("MLflow pictures", self._send_picture, is_refused, 1)
        for line in lines:
            self.lines.put(line)
        for path in pictures:
            self.images.put(path)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Queues metrics of a step."""
        self.lines.put(self.spool.add_metrics(step, values))

    def image(self, step: int, name: str, image: Image.Image) -> None:
        """Queues a picture as ``samples/NAME-STEP.png``."""
        self.images.put(self.spool.add_picture(step, name, image))

    def drain(self, timeout: float) -> bool:
        """Waits until what was queued so far is logged, at most ``timeout`` seconds; whether it was."""
        end = time.monotonic() + timeout
        return self.lines.drain(timeout) and self.images.drain(max(0.0, end - time.monotonic()))

    def close(self, timeout: float = 60.0) -> bool:
        """Waits until everything is logged, at most ``timeout`` seconds; whether it was. What was not stays on disk."""
        end = time.monotonic() + timeout
        if not self.lines.close(timeout):
            return False
        self.spool.forget_metrics()
        if not self.images.close(max(0.0, end - time.monotonic())):
            return False
        self.spool.forget_pictures()
        return True

    def _send_metrics(self, lines: list[dict[str, Any]]) -> None:
        """What the server does not have yet. Sent again after an answer that was lost, it is stored once: MLflow takes
        metrics that are equal in time, step and value for one."""
        if self.logged is None:
            self.logged = last_steps(self.client, self.run_id)
        steps, new = dict(self.logged), list[Metric]()
        for line in lines:
            for key, value in line["values"].items():
                if steps.get(key, -1) < line["step"]:
                    new.append(Metric(key, value, line["time"], line["step"]))
                    steps[key] = line["step"]
        for start in range(0, len(new), METRICS_AT_ONCE):
            self.client.log_batch(self.run_id, metrics=new[start : start + METRICS_AT_ONCE])
        self.logged = steps

    def _send_picture(self, paths: list[Path]) -> None:
        for path in paths:
            if path.exists():  # a picture of the same step may have been queued twice
                self.client.log_artifact(self.run_id, str(path), "samples")
                path.unlink()


def is_refused(error: Exception) -> bool:
    """Whether MLflow will not take an entry however often it is sent."""
    return isinstance(error, MlflowException) and error.error_code == REFUSED


def deliver_left(uri: str, run_id: str, spool: Path, timeout: float = 60.0) -> bool:
    """Sends what an earlier process of a run left on disk; whether nothing is left."""
    if Spool(spool).is_empty:
        return True
    return Tracker(uri, run_id, spool).close(timeout)
