"""A whole training job: checks, MLflow run, worker group, registration. What `raysde train` and jobs/train.py do."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from raysde import registry, tracking
from raysde.checkpoints import checkpoint, storage
from raysde.cluster.connection import connect
from raysde.cluster.resources import Share, alive
from raysde.cluster.train import launch, own_share
from raysde.config.loading import RunConfig
from raysde.config.places import absolute
from raysde.io.filesystems import child
from raysde.io.progress import ProgressLine, say
from raysde.runs import identity
from raysde.runs.history import opened, settled
from raysde.runs.resume import is_over
from raysde.runs.run import Run, check, check_resumable, open_run, remarks
from raysde.tracking.backlog import backlog_of
from raysde.tracking.spool import spool_of


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
    started, imported = started or time.time(), time.time()
    config = absolute(config)
    uri = tracking.store_uri(config.tracking.uri)
    run = open_run(config)
    check(run)
    for remark in remarks(run):
        say(remark)
    client, complete = tracking.client_for(uri), finished(run)
    with tracking.answering(uri):
        registry.check_name(client, config.model_name)
    share = None if complete else prepared(run, uri)
    stamps = {"imports": imported - started, "ray": time.time() - started}
    run_id = opened(run, client, uri, settled(run))
    begin = time.time()
    folder = child(config.storage, config.name)
    with tracking.marked(client, lambda: [run_id], lambda: identity.interrupted(folder)):
        if share is None:
            say(f"run {config.name!r} is at its end already")
        else:
            started_by = {f"raysde.startup.{key}": f"{value:.1f}" for key, value in stamps.items()}
            with tracking.answering(uri):
                tracking.set_tags(client, run_id, started_by)
            with watched(client, run_id, run):
                launch(run, tracking_uri=uri, run_id=run_id, started=started, share=share)
        last, version = published(run, client, uri, run_id)
    model = f"models:/{config.model_name}/{version}"
    return Finished(last, run_id, uri, model, 0.0 if complete else time.time() - begin)


def published(run: Run, client: tracking.MlflowClient, uri: str, run_id: str) -> tuple[Path, str]:
    """Delivers what workers left, registers the last checkpoint, and closes the MLflow run.

    Returns:
        The checkpoint, and the version of the registered model.

    Raises:
        RuntimeError: if there is no checkpoint, or the server does not answer.
    """
    config = run.config
    last = storage.newest_checkpoint(config.storage, config.name)
    if last is None:
        raise RuntimeError(f"run {config.name!r} ended without a checkpoint in {config.storage}")
    folder = child(config.storage, config.name)
    tracking.deliver_left(uri, run_id, spool_of(config.name, run_id), backlog_of(folder, run_id))
    with tracking.answering(uri):
        version = registry.publish(client, last, run_id=run_id, name=config.model_name, alias=config.tracking.alias)
        tracking.finish_run(client, run_id)
    identity.ended(folder)
    return last, version


def prepared(run: Run, uri: str) -> Share:
    """Connects to Ray, and finds out whether the cluster has what the run needs, before anything is logged.

    Returns:
        What each worker gets.

    Raises:
        ValueError: naming the setting that the cluster cannot meet.
        RuntimeError: if Ray does not start.
    """
    connect()
    reject_lonely_store(uri)
    return own_share(run)


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
