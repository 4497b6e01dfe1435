"""MLflow runs: one for each training run whatever restarts happen; metrics never wait and are never logged twice."""

import itertools
import json
import logging
import os
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunStatus
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from PIL import Image

for name in ("mlflow", "alembic"):
    logging.getLogger(name).setLevel(logging.WARNING)

RUN_TAG = "raysde.run"
PARAM_LIMIT = 6000
PICTURE_TRIES = 4
REFUSED = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED")


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
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    try:
        client.search_experiments(max_results=1)
    except MlflowException as error:
        raise ValueError(f"the MLflow server {uri} does not answer: {' '.join(str(error).split())[:160]}") from None
    return client


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


def open_run(
    client: MlflowClient,
    experiment: str,
    name: str,
    params: Mapping[str, Any],
    artifacts: str | None,
    data: Input | None = None,
) -> str:
    """The id of the run called ``name``, found by its tag or created.

    Args:
        params: the flat recipe.
        artifacts: where a newly created experiment keeps its files; None for the server's own place.
        data: what it is trained on.
    """
    found = client.get_experiment_by_name(experiment)
    experiment_id = found.experiment_id if found else client.create_experiment(experiment, artifact_location=artifacts)
    runs = client.search_runs([experiment_id], filter_string=f"tags.`{RUN_TAG}` = '{name}'", max_results=1)
    if runs:
        run_id = runs[0].info.run_id
        client.update_run(run_id, status=RunStatus.to_string(RunStatus.RUNNING))
        return str(run_id)
    tags = {RUN_TAG: name, "mlflow.source.name": "raysde train"}
    run_id = client.create_run(experiment_id, run_name=name, tags=tags).info.run_id
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
    """Writes a run's metrics and pictures from a thread of its own; the training loop never waits for it.

    Metrics are first appended to a file, and leave it in order: with the server away they queue there and arrive
    when it is back, also after a restart. A metric is never logged twice at the same step.
    """

    def __init__(self, uri: str, run_id: str, spool: Path) -> None:
        _short_timeouts(uri)
        self.client, self.run_id, self.spool = MlflowClient(tracking_uri=uri, registry_uri=uri), run_id, spool
        spool.parent.mkdir(parents=True, exist_ok=True)
        self.logged: dict[str, int] | None = None
        self.queue: queue.Queue[tuple[str, Any] | None] = queue.Queue()
        left = self._spooled()
        spool.write_text("".join(json.dumps(line) + "\n" for line in left))
        for line in left:
            self.queue.put(("metrics", line))
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self.thread.start()

    def _spooled(self) -> list[dict[str, Any]]:
        """The lines that an earlier process left; a torn last line is dropped, its step will be logged again."""
        lines = self.spool.read_text().splitlines() if self.spool.exists() else []
        result = []
        for line in lines:
            try:
                result.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return result

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Queues metrics of a step."""
        line = {"step": step, "time": int(time.time() * 1000), "values": dict(values)}
        with self.spool.open("a") as out:
            out.write(json.dumps(line) + "\n")
        self.queue.put(("metrics", line))

    def image(self, step: int, name: str, image: Image.Image) -> None:
        """Queues a picture as ``samples/NAME-STEP.png``."""
        self.queue.put(("image", (f"samples/{name}-{step:07d}.png", image)))

    def drain(self, timeout: float) -> bool:
        """Waits until what was queued so far is logged, at most ``timeout`` seconds; whether it was."""
        reached = threading.Event()
        self.queue.put(("reached", reached))
        return reached.wait(timeout)

    def close(self, timeout: float = 60.0) -> bool:
        """Waits until everything is logged, at most ``timeout`` seconds; whether it was."""
        self.queue.put(None)
        return self.done.wait(timeout)

    def _work(self) -> None:
        while (item := self.queue.get()) is not None:
            self._deliver(*item)
        self.spool.unlink(missing_ok=True)
        self.done.set()

    def _deliver(self, kind: str, content: Any) -> None:
        """Sends one entry: metrics until the server takes them, a picture a few times; what is refused is reported."""
        pause = 1.0
        for attempt in itertools.count(1):
            try:
                return self._send(kind, content)
            # artifact stores raise errors of their own, and none may end this thread: metrics wait behind it
            except Exception as error:
                shown = " ".join(str(error).split())[:160]
                refused = isinstance(error, MlflowException) and error.error_code in REFUSED
                if refused or (kind == "image" and attempt == PICTURE_TRIES):
                    return print(f"MLflow refused an entry: {shown}", flush=True)
                print(f"MLflow does not answer, {self.queue.qsize() + 1} entries wait: {shown}", flush=True)
            time.sleep(pause)
            pause = min(15.0, 2.0 * pause)

    def _send(self, kind: str, content: Any) -> None:
        if kind == "reached":
            content.set()
            return
        if kind == "image":
            self.client.log_image(self.run_id, content[1], artifact_file=content[0])
            return
        if self.logged is None:
            self.logged = last_steps(self.client, self.run_id)
        step, stamp = content["step"], content["time"]
        new = {key: value for key, value in content["values"].items() if self.logged.get(key, -1) < step}
        if new:
            self.client.log_batch(self.run_id, metrics=[Metric(key, value, stamp, step) for key, value in new.items()])
        self.logged.update(dict.fromkeys(new, step))


def fail_run(client: MlflowClient, run_id: str) -> None:
    """Marks a run as failed, if the server can be reached: the error that failed it matters more."""
    with suppress(MlflowException):
        client.set_terminated(run_id, status=RunStatus.to_string(RunStatus.FAILED))


def finish_run(client: MlflowClient, run_id: str) -> None:
    """Marks a run as finished."""
    client.set_terminated(run_id, status=RunStatus.to_string(RunStatus.FINISHED))


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
