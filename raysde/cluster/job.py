"""A whole training job: checks, MLflow run, worker group, registration. What `raysde train` and jobs/train.py do."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from raysde import checkpoint, registry, storage, tracking
from raysde.cluster.placement import alive
from raysde.cluster.session import connect
from raysde.cluster.train import launch
from raysde.config import RunConfig, parse
from raysde.progress import ProgressLine
from raysde.resuming import is_over
from raysde.run import Run, check, check_resumable, open_run
from raysde.spool import spool_of


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
    uri = config.tracking.uri or tracking.default_uri()
    run = open_run(absolute(config))
    check(run)
    client = tracking.client_for(uri)
    complete = finished(run)
    with tracking.answering(uri):
        data = tracking.Input(run.manifest.path, run.manifest.fingerprint, run.manifest.rows)
        run_id = tracking.open_run(
            client, config.tracking.experiment, config.name, config.flat(), tracking.artifact_place(uri), data
        )
    begin = time.time()
    if not complete:
        trained(run, client, uri, run_id, started)
    last = storage.newest_checkpoint(run.config.storage, config.name)
    if last is None:
        raise RuntimeError(f"run {config.name!r} ended without a checkpoint in {run.config.storage}")
    tracking.deliver_left(uri, run_id, spool_of(config.name, run_id))
    with tracking.answering(uri):
        version = registry.publish(client, last, run_id=run_id, name=config.model_name, alias=config.tracking.alias)
        tracking.finish_run(client, run_id)
    model = f"models:/{config.model_name}/{version}"
    return Finished(last, run_id, uri, model, 0.0 if complete else time.time() - begin)


def absolute(config: RunConfig) -> RunConfig:
    """The recipe with local paths made absolute here: a worker may start in another folder."""
    tree = config.model_dump(mode="json")
    tree["storage"] = storage.location(config.storage)
    tree["data"]["path"] = storage.location(config.data.path)
    return parse(tree)


def trained(run: Run, client: tracking.MlflowClient, uri: str, run_id: str, started: float) -> None:
    """Connects to Ray and runs the workers to the end; the MLflow run fails with them."""
    imported = time.time()
    try:
        connect()
        reject_lonely_store(uri)
        stamps = {"startup/imports": imported - started, "startup/ray": time.time() - started}
        if not tracking.latest_metrics(client, run_id):
            client.log_batch(run_id, metrics=[tracking.metric(key, value) for key, value in stamps.items()])
        with watched(client, run_id, run):
            launch(run, tracking_uri=uri, run_id=run_id, started=started)
    except BaseException:
        tracking.fail_run(client, run_id)
        raise


def finished(run: Run) -> bool:
    """Whether the run's newest checkpoint is at its end, after checking that it is a checkpoint of this recipe."""
    found = storage.newest_checkpoint(run.config.storage, run.config.name)
    if found is None:
        return False
    description = checkpoint.read(found)
    storage.discard(found)
    check_resumable(run, description)
    return is_over(run, description)


def reject_lonely_store(uri: str) -> None:
    """Workers on other machines cannot write to a SQLite file on this one.

    Raises:
        ValueError: if the cluster has several nodes and the store is a local file.
    """
    nodes = len(alive())
    if uri.startswith("sqlite") and nodes > 1:
        raise ValueError(
            f"tracking.uri {uri} is a file on one machine, the cluster has {nodes} nodes: give an MLflow server"
        )


@contextmanager
def watched(client: tracking.MlflowClient, run_id: str, run: Run) -> Iterator[None]:
    """Shows a progress line, read from the tracking store, so that it works wherever the worker runs."""
    line = ProgressLine(run.steps, run.plan.batch)
    done = threading.Event()

    def watch() -> None:
        while not done.wait(2.0):
            try:
                with tracking.answering(""):
                    metrics = tracking.latest_metrics(client, run_id)
            except RuntimeError:
                continue  # the worker's tracker says that the server is away
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
