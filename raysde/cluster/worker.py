"""The training loop inside one Ray Train worker: microbatches from the stream, checkpoints reported to Ray."""

from __future__ import annotations

import atexit
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray.train
import torch

import raysde
from raysde.checkpoints import checkpoint, storage
from raysde.cluster.connection import quiet_ray, tell_driver
from raysde.cluster.leaving import Notices
from raysde.cluster.reporting import Measures, make_measures
from raysde.cluster.resources import DataShare, assign_data_share, list_live_nodes
from raysde.config import loading
from raysde.data.batches.microbatch import Microbatch, read_batches
from raysde.data.batches.prefetch import prefetch_to_device
from raysde.distributed.world import World, current_world
from raysde.io.filesystems import child_path, open_filesystem
from raysde.runs.build import make_objective, make_schedule, new_state
from raysde.runs.hooks import RunHooks
from raysde.runs.lease import Lease, join_lease
from raysde.runs.resume import describe_start, follow_order, resume_run
from raysde.runs.run import Run, open_run
from raysde.runs.saving import Saver
from raysde.tracking.backlog import backlog_folder
from raysde.training.loop import fit
from raysde.training.recovery import extend_batches
from raysde.training.state import TrainState

if TYPE_CHECKING:
    from raysde.tracking import Tracker


def run_worker(settings: dict[str, Any]) -> dict[str, Any]:
    """Train to the recipe's end, from the newest checkpoint if any.

    Returns:
        The last step, the message of a loop that failed, and True in ``left`` if the loop was asked to end before.
    """
    torch.set_num_threads(settings["threads"])
    quiet_ray()
    run, world = open_run(loading.parse_recipe(settings["recipe"])), current_world()
    alone = settings["reports"] is None  # not a trial of a sweep
    if alone and world.is_first:
        tell_warnings()
    check_shared(run)
    lease = None
    if world.is_first and settings["lease"] is not None:
        lease = join_lease(child_path(run.config.storage, run.config.name), settings["lease"])
    place, name, damaged = run.config.storage, run.config.name, settings.get("damaged")
    found = storage.find_newest_checkpoint(place, name, damaged=damaged)
    start, position, stop = 0, 0, run.steps
    if found is not None:
        assert found.description is not None, "a checkpoint without a description is not chosen"
        start, run = found.step, follow_order(run, found.description.data)
        position, stop = found.description.position, run.steps + found.description.bad.passed
    ordered = run

    def read(first: int, stop: int) -> Iterator[list[Microbatch]]:
        return prefetch_to_device(read_microbatches(ordered, first, stop, world, settings["threads"]), world.device)

    batches = read(position, stop)
    state = new_state(run, world.device)
    if found:
        run = resume_run(run, state, found, world)
    batches = extend_batches(batches, stop, state, run.steps, read)
    tracker = None
    if world.is_first:
        tracker = open_tracker(settings, lease)
        group = {"raysde.startup.worker_group": f"{time.time() - settings['started']:.1f}"}
        batches = time_first_batch(batches, settings["started"], tracker, group)
        if alone:
            batches = tell_first_batch(batches)
            if found:
                tell_driver(describe_start(start, run.steps))
    begin = time.perf_counter()
    secure = partial(tracker.secure, 5.0) if tracker is not None else None
    check, confirm = (lambda: None, lambda: None) if lease is None else (lease.check, lease.confirm)
    saver = Saver(run, state, world, secure, partial(report_checkpoint, run, world), confirm)
    notices = Notices(settings["leaving"], world.is_first)
    measures = make_measures(run, state, world, saver, settings["reports"], resumed=bool(found))
    hooks = RunHooks(run, tracker, saver.save, notices.should_leave, saver.snapshot, check, saver.restore)
    with notices.watching():
        with exit_at_once_on_sigterm(), measures.actors, saver:
            failed = run_loop(run, state, batches, hooks, world, measures)
        if tracker is not None:
            tracker.tags({"raysde.seconds.loop": f"{time.perf_counter() - begin:.1f}"})
            if not tracker.close():
                tell_driver("MLflow did not take all metrics in time; they are kept beside the run's checkpoints")
        if lease is not None:
            lease.release()
    notices.answer()
    over = (state.stopped or state.step >= run.steps) and not state.beside.waits
    return {"step": state.step, "failed": failed, "left": not (failed or over)}


def check_shared(run: Run) -> None:
    """Check that this worker sees the run's folder, which the driver created.

    Raises:
        ValueError: if the storage of this worker lacks the folder.
    """
    place = run.config.storage
    if storage.is_local(place) and not (Path(storage.absolute_location(place)) / run.config.name).is_dir():
        raise ValueError(
            f"storage {place} is not one folder for all nodes: give a folder that every node reaches, or a URI such as "
            "s3://bucket/runs"
        )


def read_microbatches(run: Run, start: int, stop: int, world: World, cpus: float) -> Iterator[list[Microbatch]]:
    """Return this rank's microbatches: from Ray Data, or with data.stream=worker from shards.

    Args:
        start, stop: first plan position, and the position after the last.
        cpus: CPUs of each worker, on which no data tasks run.

    Raises:
        ValueError: if there are more workers than microbatches.
    """
    if run.config.data.stream == "worker":
        reader = run.sources.open_reader(run.feed.fields)
        return read_batches(run.feed, reader, start, stop, world.rank, world.size)
    from raysde.cluster.stream import read_stream, stream_spec  # loads Ray Data

    def find_share() -> DataShare:
        return assign_data_share(run.config, list_live_nodes(), world.size, cpus)

    return read_stream(stream_spec(run, start, stop), run.manifest.channels, world.rank, world.size, find_share)


def open_tracker(settings: dict[str, Any], lease: Lease | None) -> Tracker:
    """Return the tracker of rank 0."""
    from raysde.tracking import Tracker  # other ranks need none

    folder = child_path(settings["recipe"]["storage"], settings["recipe"]["name"])
    backlog = backlog_folder(folder, settings["run_id"])
    confirm = None if lease is None else lease.confirm
    return Tracker(settings["tracking_uri"], settings["run_id"], Path(settings["spool"]), backlog, confirm)


@contextmanager
def exit_at_once_on_sigterm() -> Iterator[None]:
    """End the process at once on SIGTERM, without Python's shutdown.

    Ray Train runs the loop in a thread. If the main thread ends while that thread is inside torch's backward pass, the
    process aborts and prints a stack trace, for example whenever a sweep stops a trial.
    """

    def leave() -> None:
        os._exit(1)

    atexit.register(leave)
    try:
        yield
    finally:
        atexit.unregister(leave)


def run_loop(
    run: Run,
    state: TrainState,
    batches: Iterator[list[Microbatch]],
    hooks: RunHooks,
    world: World,
    measures: Measures,
) -> str:
    """Run the loop and return an empty string, or the message of a loss that is not finite, or of too many bad steps.

    Every rank meets such a loss at the same step, and a restart would meet it again.

    Raises:
        ValueError: as :func:`raysde.training.loop.fit`.
    """
    compiled = run.config.train.compile
    try:
        fit(
            state,
            batches,
            make_objective(run),
            make_schedule(run),
            hooks,
            world,
            validate=measures.validate,
            quality=measures.quality,
            beside=measures.beside,
            compile=compiled,
        )
    except FloatingPointError as error:
        return str(error)
    return ""


def report_checkpoint(run: Run, world: World, step: int) -> None:
    """Report the written checkpoint of step ``step`` to Ray Train; every rank calls this, and waits for the others.

    Ray Train takes reports from the training thread alone and in the same order on all ranks, so a checkpoint is
    reported at the next one or at the end. raysde deletes older checkpoints itself: Ray Train's list lacks checkpoints
    that a worker wrote but did not report before it died.
    """
    name, handed = checkpoint.checkpoint_name(step), None
    if world.is_first:
        folder = child_path(storage.absolute_location(run.config.storage), run.config.name)
        system, root = open_filesystem(child_path(folder, name))
        handed = ray.train.Checkpoint(root, system)
    ray.train.report(
        {"step": step},
        handed,
        checkpoint_dir_name=name,
        checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD,
    )


def tell_first_batch(batches: Iterator[list[Microbatch]]) -> Iterator[list[Microbatch]]:
    """Pass batches on, and report the first one at the driver's terminal."""
    for number, batch in enumerate(batches):
        if number == 0:
            tell_driver("first batch")
        yield batch


def tell_warnings() -> None:
    """Print raysde's own warnings, for example of truncated captions, at the driver's terminal."""

    def show(message: Warning | str, category: type[Warning], filename: str, *where: Any, **more: Any) -> None:
        if Path(raysde.__file__).parent in Path(filename).parents:
            tell_driver(f"warning: {message}")

    warnings.showwarning = show  # type: ignore[assignment]


def time_first_batch(
    batches: Iterator[list[Microbatch]], started: float, tracker: Tracker, tags: Mapping[str, str] | None = None
) -> Iterator[list[Microbatch]]:
    """Pass batches on, and tag the run with the seconds from ``started`` (a ``time.time()``) to the first batch.

    Args:
        tags: further tags, sent with it: the first entry of a tracker makes it import MLflow, which would delay the
            first batch.
    """
    for number, batch in enumerate(batches):
        if number == 0:
            tracker.tags({**(tags or {}), "raysde.startup.first_batch": f"{time.time() - started:.1f}"})
        yield batch
