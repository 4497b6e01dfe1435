"""A whole training job: checks, MLflow run, worker group, registration. Used by `raysde train` and jobs/train.py."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from raysde import registry, tracking
from raysde.checkpoints import storage
from raysde.cluster.connection import connect
from raysde.cluster.leaving import Departure
from raysde.cluster.resources import Share, list_live_nodes
from raysde.cluster.train import own_share, run_worker_group
from raysde.cluster.verify import verify_data
from raysde.config.loading import RunConfig
from raysde.config.places import resolve_places
from raysde.io.filesystems import child_path
from raysde.io.progress import ProgressLine, say
from raysde.runs import identity
from raysde.runs.history import open_tracking_run, settle_run_word
from raysde.runs.keeping import choose_published
from raysde.runs.lease import hold_run, refuse_living
from raysde.runs.resume import is_run_over
from raysde.runs.run import Run, check_resumable, check_run, list_remarks, open_run
from raysde.tracking.backlog import backlog_folder
from raysde.tracking.spool import spool_folder

Hold = Callable[[Callable[[], bool]], AbstractContextManager[Callable[[], bool]]]
"""A function as :func:`raysde.commands.signals.hold_signal`."""


@dataclass(frozen=True)
class Finished:
    """Result of a finished run: last checkpoint, MLflow run, registered model version and wall time in seconds.

    Attributes:
        run_id, tracking_uri: the MLflow run, and the MLflow store that holds it.
        model: URI of the registered version, such as models:/photos/1.
        seconds: time from the command's start to its end.
        choice: reason for the registered checkpoint, such as ``best by val/loss, 0.1234``.
    """

    checkpoint: Path
    run_id: str
    tracking_uri: str
    model: str
    seconds: float
    choice: str


def train_job(config: RunConfig, *, started: float | None = None, hold: Hold | None = None) -> Finished:
    """Train a run, or resume the run of the same name, and register the EMA model of its best or last checkpoint.

    Args:
        started: time.time() when the command began, in seconds.
        hold: returns a context that holds signals back, and yields a function that returns True once there was one,
            while a function returns True; see :func:`raysde.commands.signals.hold_signal`. None leaves signals alone.

    Raises:
        ValueError: for anything wrong in the recipe, data or environment that shows before workers start, also if
            another command trains the run.
        RuntimeError: if the workers failed more than ``resources.max_failures`` times.
        TakenOver: if another command took the run over.
    """
    started, imported = started or time.time(), time.time()
    config = resolve_places(config)
    run = open_run(config)
    for remark in [*check_run(run, verify_data), *list_remarks(run)]:
        say(remark)
    folder = child_path(config.storage, config.name)
    refuse_living(folder)
    complete = is_run_finished(run)
    with ThreadPoolExecutor(1, "store") as beside:
        opened = beside.submit(open_store, config)  # importing MLflow takes as long as Ray's start
        share = None if complete else check_cluster(run)
        uri, client = opened.result()
    if share is not None:
        reject_local_store(uri)
    stamps = {"imports": imported - started, "ray": time.time() - started}
    with hold_run(folder, config.resources.lease, say) as lease:
        run_id = open_tracking_run(run, client, uri, settle_run_word(run))
        begin = time.time()
        with tracking.mark_runs(client, lambda: [run_id], lambda: identity.describe_interruption(folder)):
            if share is None:
                say(f"run {config.name!r} is complete already")
            else:
                started_by = {f"raysde.startup.{key}": f"{value:.1f}" for key, value in stamps.items()}
                with tracking.report_server_errors(uri):
                    tracking.set_tags(client, run_id, started_by)
                departure = Departure()
                with (
                    show_run_progress(client, run_id, run),
                    nullcontext(never) if hold is None else hold(departure.is_possible) as departure.should_stop,
                ):
                    launch = partial(run_worker_group, share=share, lease=lease, departure=departure)
                    launch(run, tracking_uri=uri, run_id=run_id, started=started)
            lease.confirm()
            last, version, choice = publish_run(run, client, uri, run_id)
    model = f"models:/{config.model_name}/{version}"
    return Finished(last, run_id, uri, model, 0.0 if complete else time.time() - begin, choice)


def never() -> bool:
    """Return False."""
    return False


def publish_run(run: Run, client: tracking.MlflowClient, uri: str, run_id: str) -> tuple[Path, str, str]:
    """Deliver the metrics that workers left, register the best or the last checkpoint, and close the MLflow run.

    Returns:
        The last checkpoint, the version of the registered model, and the reason for the registered checkpoint.

    Raises:
        RuntimeError: if there is no checkpoint, or the server does not answer.
    """
    config = run.config
    last = storage.fetch_newest_checkpoint(config.storage, config.name)
    if last is None:
        raise RuntimeError(f"run {config.name!r} ended without a checkpoint in {config.storage}")
    folder = child_path(config.storage, config.name)
    tracking.deliver_leftovers(uri, run_id, spool_folder(config.name, run_id), backlog_folder(folder, run_id))
    chosen = choose_published(run, last, say)
    with tracking.report_server_errors(uri):
        version = registry.publish_checkpoint(
            client,
            chosen.folder,
            run_id=run_id,
            name=config.model_name,
            alias=config.tracking.alias,
            chosen=chosen.which,
        )
        tracking.finish_run(client, run_id)
    identity.note_end(folder)
    if chosen.folder != last:
        storage.discard_copy(chosen.folder)
    return last, version, chosen.reason


def open_store(config: RunConfig) -> tuple[str, tracking.MlflowClient]:
    """Return the URI and the client of a run's MLflow store.

    Raises:
        ValueError: if there is no such store, or the name of the model is taken.
        RuntimeError: if the server does not answer.
    """
    uri = tracking.store_uri(config.tracking.uri)
    client = tracking.connect_client(uri)
    with tracking.report_server_errors(uri):
        registry.check_model_name(client, config.model_name)
    return uri, client


def check_cluster(run: Run) -> Share:
    """Connect to Ray, and return the share of each worker, before anything is logged to MLflow.

    Raises:
        ValueError: naming the setting that the cluster cannot satisfy.
        RuntimeError: if Ray does not start.
    """
    connect(bare=True)
    return own_share(run)


def is_run_finished(run: Run) -> bool:
    """Return True if the newest checkpoint is at the run's last step, after checking that it matches the recipe.

    Files are compared with their hashes only if the run would end here; otherwise the workers do so.

    Raises:
        ValueError: naming the first key of the recipe that does not match, or if no checkpoint is whole.
        RuntimeError: if the storage cannot be read.
    """
    found = storage.find_newest_checkpoint(run.config.storage, run.config.name)
    if found is None or found.description is None:
        return False
    check_resumable(run, found.description)
    return is_run_over(run, found.description) and storage.is_intact(run.config.storage, found)


def reject_local_store(uri: str) -> None:
    """Refuse a local SQLite store on a cluster of several nodes, since other nodes cannot write to it.

    Raises:
        ValueError: if the cluster has several nodes and the store is a local file.
    """
    nodes = len(list_live_nodes())
    if uri.startswith("sqlite") and nodes > 1:
        raise ValueError(
            f"tracking.uri {uri} is a file on one machine, the cluster has {nodes} nodes: give an MLflow server"
        )


@contextmanager
def show_run_progress(client: tracking.MlflowClient, run_id: str, run: Run) -> Iterator[None]:
    """Show a progress line while the context is open, from the tracking store, so it works wherever the worker runs."""
    line = ProgressLine(run.steps, run.plan.batch)
    done = threading.Event()

    def watch() -> None:
        while not done.wait(2.0):
            try:
                with tracking.report_server_errors(""):
                    metrics = tracking.read_latest_metrics(client, run_id)
            except RuntimeError:
                continue  # the worker's tracker reports that the server is away
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
