"""MLflow runs: one for each training run whatever restarts happen; metrics never wait and are never logged twice."""

import fcntl
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunStatus
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from PIL import Image

from raysde.outbox import Outbox
from raysde.spool import Spool

for name in ("mlflow", "alembic"):
    logging.getLogger(name).setLevel(logging.WARNING)

RUN_TAG = "raysde.run"
PARAM_LIMIT = 6000
LINES_AT_ONCE, METRICS_AT_ONCE = 200, 1000
Ended = Literal["FINISHED", "KILLED", "FAILED"]
REFUSED = "INVALID_PARAMETER_VALUE"
"""MLflow's word for what it will never take. Others pass: BAD_REQUEST is also a database whose connections are all in
use, PERMISSION_DENIED also a token that has run out."""


def default_uri() -> str:
    """MLFLOW_TRACKING_URI if it is set, otherwise a SQLite file at a fixed place in the home folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('~/raysde/mlflow.db').expanduser()}"


def client_for(uri: str) -> MlflowClient:
    """A client of a tracking store that answers.

    Raises:
        ValueError: if it does not answer, or is a plain folder, which MLflow no longer supports.
    """
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    elif "://" not in uri or uri.startswith("file:"):
        raise ValueError(f"tracking.uri {uri!r} must be a server (http://...) or a database (sqlite:///...)")
    _short_timeouts(uri)
    try:
        with _alone(uri):
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            client.search_experiments(max_results=1)
    except MlflowException as error:
        raise ValueError(f"the MLflow server {uri} does not answer: {' '.join(str(error).split())[:160]}") from None
    return client


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """One process after the other opens a SQLite file: the first makes its tables, which two at once would break."""
    if not uri.startswith("sqlite:///"):
        yield
        return
    with open(uri.removeprefix("sqlite:///") + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _short_timeouts(uri: str) -> None:
    """A server that is away is reported in seconds rather than after MLflow's default seven retries."""
    if uri.startswith("http"):
        for variable in (
            mlflow.environment_variables.MLFLOW_HTTP_REQUEST_MAX_RETRIES,
            mlflow.environment_variables.MLFLOW_HTTP_REQUEST_TIMEOUT,
        ):
            if not variable.is_set():
                variable.set(2 if "RETRIES" in variable.name else 10)


@dataclass(frozen=True)
class Input:
    """The data set of a run: its place, the hash of its content, and its number of rows."""

    path: str
    fingerprint: str
    rows: int

    def entity(self) -> DatasetInput:
        """For MLflow's own column of data sets."""
        kind = self.path.partition("://")[0] if "://" in self.path else "local"
        return DatasetInput(
            Dataset(
                name=self.path.rstrip("/").rpartition("/")[2],
                digest=self.fingerprint,
                source_type=kind,
                source=json.dumps({"uri": self.path}),
                profile=json.dumps({"num_rows": self.rows}),
            ),
            [InputTag("mlflow.data.context", "training")],
        )


def artifact_place(uri: str) -> str | None:
    """Beside a SQLite file, its artifacts; a server knows its own place."""
    if not uri.startswith("sqlite:///"):
        return None
    return (Path(uri.removeprefix("sqlite:///")).absolute().parent / "artifacts").as_uri()


def experiment_id(client: MlflowClient, name: str, artifacts: str | None) -> str:
    """The experiment called ``name``, created if there is none, also if several processes do so at once.

    Args:
        artifacts: where a newly created one keeps its files; None for the server's own place.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifacts))
        except MlflowException as error:
            found = client.get_experiment_by_name(name)
            if found is None:
                raise error
    return str(found.experiment_id)


def open_run(
    client: MlflowClient,
    experiment: str,
    name: str,
    params: Mapping[str, Any],
    artifacts: str | None,
    data: Input | None = None,
    parent: str | None = None,
) -> str:
    """The id of the run called ``name``, found by its tag or created.

    Args:
        params: the flat recipe.
        artifacts: where a newly created experiment keeps its files; None for the server's own place.
        data: what it is trained on.
        parent: id of the run that it is shown below, such as that of a sweep.
    """
    place = experiment_id(client, experiment, artifacts)
    runs = client.search_runs([place], filter_string=f"tags.`{RUN_TAG}` = '{name}'", max_results=1)
    if runs:
        run_id = runs[0].info.run_id
        client.update_run(run_id, status=RunStatus.to_string(RunStatus.RUNNING))
        return str(run_id)
    tags = {RUN_TAG: name, "mlflow.source.name": "raysde train", **({"mlflow.parentRunId": parent} if parent else {})}
    run_id = client.create_run(place, run_name=name, tags=tags).info.run_id
    entries = [Param(key, str(value)[:PARAM_LIMIT]) for key, value in params.items()]
    for start in range(0, len(entries), 100):
        client.log_batch(run_id, params=entries[start : start + 100])
    client.log_dict(run_id, dict(params), "recipe.json")
    if data is not None:
        client.log_inputs(run_id, datasets=[data.entity()])
    return str(run_id)


def last_steps(client: MlflowClient, run_id: str) -> dict[str, int]:
    """The last step at which each metric of a run was logged."""
    keys = client.get_run(run_id).data.metrics
    return {key: max(metric.step for metric in client.get_metric_history(run_id, key)) for key in keys}


class Tracker:
    """Writes a run's metrics and pictures from threads of its own; the training loop never waits for it.

    Both are first written to disk, and leave it in order: with the server away they queue there and arrive when it is
    back, also after a restart. A metric is never logged twice at the same step.

    Args:
        spool: the file of the metrics; the pictures' folder is beside it.
    """

    def __init__(self, uri: str, run_id: str, spool: Path) -> None:
        _short_timeouts(uri)
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


def fail_run(client: MlflowClient, run_id: str) -> None:
    """Marks a run as failed, if the server can be reached: the error that failed it matters more."""
    with suppress(MlflowException):
        client.set_terminated(run_id, status=RunStatus.to_string(RunStatus.FAILED))


def finish_run(client: MlflowClient, run_id: str) -> None:
    """Marks a run as finished."""
    client.set_terminated(run_id, status=RunStatus.to_string(RunStatus.FINISHED))


def close_run(client: MlflowClient, run_id: str, ended: Ended) -> None:
    """Marks a run as finished, killed or failed; one that is so already keeps the time of its end."""
    if client.get_run(run_id).info.status != ended:
        client.set_terminated(run_id, status=ended)


def has_run(client: MlflowClient, run_id: str) -> bool:
    """Whether a store knows a run."""
    try:
        client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return True


def keep_files(client: MlflowClient, run_id: str, files: Mapping[str, bytes], tags: Mapping[str, str]) -> None:
    """Logs files by name, and tags, to a run; those of the same names are replaced."""
    with tempfile.TemporaryDirectory(prefix="raysde-") as folder:
        for name, content in files.items():
            path = Path(folder) / name
            path.write_bytes(content)
            client.log_artifact(run_id, str(path))
    for key, value in tags.items():
        client.set_tag(run_id, key, value)


def latest_metrics(client: MlflowClient, run_id: str) -> dict[str, float]:
    """The newest value of each metric."""
    return dict(client.get_run(run_id).data.metrics)


@contextmanager
def answering(uri: str) -> Iterator[None]:
    """Turns an error of the MLflow server into one sentence.

    Raises:
        RuntimeError: naming the server.
    """
    try:
        yield
    except MlflowException as error:
        raise RuntimeError(f"MLflow at {uri}: {' '.join(str(error).split())[:200]}") from error


def metric(key: str, value: float, step: int = 0) -> Metric:
    """A metric stamped with the present time."""
    return Metric(key, value, int(time.time() * 1000), step)
