"""A whole training job: checks, MLflow run, worker group, registration. What `raysde train` and jobs/train.py do."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray

from raysde import checkpoint, registry, storage, tracking
from raysde.cluster.session import connect
from raysde.cluster.train import launch
from raysde.config import RunConfig
from raysde.progress import ProgressLine
from raysde.run import Run, check, check_resumable, open_run


@dataclass(frozen=True)
class Finished:
    """Where a finished run is: its last checkpoint, its MLflow run, and the model version registered from it."""

    checkpoint: Path
    run_id: str
    tracking_uri: str
    model: str
    seconds: float


def train_job(config: RunConfig, *, started: float | None = None) -> Finished:
    """Trains, or continues the run of the same name, and registers its final averaged model.

    Args:
        started: time.time() when the command began.

    Raises:
        ValueError: for anything in the recipe, the data or the surroundings that is wrong before workers start.
        RuntimeError: if the workers failed for good.
    """
    started = started or time.time()
    run = open_run(config)
    check(run)
    uri = config.tracking.uri or tracking.default_uri()
    client = tracking.client_for(uri)
    run_id = tracking.open_run(client, config.tracking.experiment, config.name, config.flat(), artifact_place(uri))
    imported = time.time()
    seconds = 0.0
    if not finished(run):
        connect()
        reject_lonely_store(uri)
        stamps = {"startup/imports": imported - started, "startup/ray": time.time() - started}
        client.log_batch(run_id, metrics=[tracking.metric(key, value) for key, value in stamps.items()])
        begin = time.time()
        try:
            with watched(client, run_id, run):
                launch(run, tracking_uri=uri, run_id=run_id, started=started)
        except BaseException:
            tracking.finish_run(client, run_id, succeeded=False)
            raise
        seconds = time.time() - begin
    last = storage.newest_checkpoint(config.storage, config.name)
    if last is None:
        raise RuntimeError(f"run {config.name!r} ended without a checkpoint in {storage.location(config.storage)}")
    version = registry.publish(client, last, run_id=run_id, name=config.model_name, alias=config.tracking.alias)
    tracking.finish_run(client, run_id, succeeded=True)
    return Finished(last, run_id, uri, f"models:/{config.model_name}/{version}", seconds)


def finished(run: Run) -> bool:
    """Whether the run's newest checkpoint is at its end, after checking that it is a checkpoint of this recipe."""
    found = storage.newest_checkpoint(run.config.storage, run.config.name)
    if found is None:
        return False
    description = checkpoint.read(found)
    check_resumable(run, description)
    return description.step >= run.steps or bool(description.state["stopped"])


def artifact_place(uri: str) -> str | None:
    """Beside a SQLite file, its artifacts; a server knows its own place."""
    if not uri.startswith("sqlite:///"):
        return None
    return (Path(uri.removeprefix("sqlite:///")).absolute().parent / "artifacts").as_uri()


def reject_lonely_store(uri: str) -> None:
    """Workers on other machines cannot write to a SQLite file on this one.

    Raises:
        ValueError: if the cluster has several nodes and the store is a local file.
    """
    alive = [node for node in ray.nodes() if node["Alive"]]
    if uri.startswith("sqlite") and len(alive) > 1:
        raise ValueError(
            f"tracking.uri {uri} is a file on one machine, the cluster has {len(alive)} nodes: give an MLflow server"
        )


@contextmanager
def watched(client: tracking.MlflowClient, run_id: str, run: Run) -> Iterator[None]:
    """Shows a progress line, read from the tracking store, so that it works wherever the worker runs."""
    line = ProgressLine(run.steps, run.plan.batch)
    done = threading.Event()

    def watch() -> None:
        while not done.wait(1.0):
            metrics = tracking.latest_metrics(client, run_id)
            if "train/images" in metrics:
                line.show(int(metrics["train/images"]) // run.plan.batch, metrics)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(5.0)
        line.close()
