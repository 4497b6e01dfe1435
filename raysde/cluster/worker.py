"""The training loop inside one Ray Train worker: microbatches from the stream, checkpoints reported to Ray."""

from __future__ import annotations

import atexit
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray.train
import torch

import raysde
from raysde.checkpoints import checkpoint, storage
from raysde.checkpoints import sharded as distributed_checkpoint
from raysde.cluster.connection import quiet_ray, tell_driver
from raysde.cluster.stream import read_stream, stream_spec
from raysde.cluster.trial_reports import Slot
from raysde.config import loading
from raysde.data.batches.microbatch import Microbatch, read_batches
from raysde.data.batches.prefetch import prefetch_to_device
from raysde.data.dataset.reader import Reader
from raysde.distributed.fsdp import has_shards
from raysde.distributed.world import World, current_world
from raysde.io.errors import name_place_of_write
from raysde.io.filesystems import child_path, open_filesystem
from raysde.models.score import ScoreModel
from raysde.runs.build import make_objective, make_schedule, make_validator, new_state
from raysde.runs.hooks import RunHooks, describe_run, save_checkpoint
from raysde.runs.resume import describe_start, follow_order, resume_run
from raysde.runs.run import Run, open_run
from raysde.tracking.backlog import backlog_folder
from raysde.training.loop import Validate, fit, is_due, measure_average
from raysde.training.state import TrainState

if TYPE_CHECKING:
    from raysde.tracking import Tracker


def run_worker(settings: dict[str, Any]) -> dict[str, Any]:
    """Train to the recipe's end, from the newest checkpoint if any; return the last step and the loop's message."""
    torch.set_num_threads(settings["threads"])
    quiet_ray()
    run, world = open_run(loading.parse_recipe(settings["recipe"])), current_world()
    alone = settings["reports"] is None  # not a trial of a sweep
    if alone and world.is_first:
        tell_warnings()
    check_shared(run)
    found = storage.fetch_newest_checkpoint(run.config.storage, run.config.name)
    start = 0
    if found:
        description = checkpoint.read_description(found)
        start, run = description.step, follow_order(run, description.data)
    batches = prefetch_to_device(read_microbatches(run, start, world), world.device)
    state = new_state(run, world.device)
    if found:
        run = resume_run(run, state, found)
        storage.discard_copy(found)
    tracker = None
    if world.is_first:
        tracker = open_tracker(settings)
        tracker.tags({"raysde.startup.worker_group": f"{time.time() - settings['started']:.1f}"})
        batches = time_first_batch(batches, settings["started"], tracker)
        if alone:
            batches = tell_first_batch(batches)
            if found:
                tell_driver(describe_start(start, run.steps))
    hooks = RunHooks(run, tracker, lambda state: report_checkpoint(run, state, world, tracker))
    validate = make_validator(run, world)
    if settings["reports"] is not None and validate is not None:
        validate = report_validation(validate, state, world, settings["reports"], run.steps)
        if found and is_due(state.step, run.config.validation.every, state.step == run.steps):
            # the trial process may have died with its report of this step
            measure_average(state, validate)
    begin = time.perf_counter()
    with exit_at_once_on_sigterm():
        failed = run_loop(run, state, batches, hooks, world, validate)
    if tracker is not None:
        tracker.tags({"raysde.seconds.loop": f"{time.perf_counter() - begin:.1f}"})
        if not tracker.close():
            tell_driver("MLflow did not take all metrics in time; they are kept beside the run's checkpoints")
    return {"step": state.step, "failed": failed}


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


def read_microbatches(run: Run, start: int, world: World) -> Iterator[list[Microbatch]]:
    """Return this rank's microbatches from step ``start`` on: from Ray Data, or with data.stream=worker from shards.

    Raises:
        ValueError: if there are more workers than microbatches.
    """
    if run.config.data.stream == "worker":
        reader = Reader(run.manifest, text=run.text, latents=run.latents, fields=run.feed.fields)
        return read_batches(run.feed, reader, start, run.steps, world.rank, world.size)
    shard = ray.train.get_dataset_shard("train")
    return read_stream(shard, stream_spec(run, start), run.manifest.channels, world.rank, world.size)


def open_tracker(settings: dict[str, Any]) -> Tracker:
    """Return the tracker of rank 0; MLflow is imported here because the import would delay other ranks by seconds."""
    from raysde.tracking import Tracker

    folder = child_path(settings["recipe"]["storage"], settings["recipe"]["name"])
    backlog = backlog_folder(folder, settings["run_id"])
    return Tracker(settings["tracking_uri"], settings["run_id"], Path(settings["spool"]), backlog)


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
    validate: Validate | None,
) -> str:
    """Run the loop and return an empty string, or the message of a loss that is not finite.

    Every rank meets such a loss at the same step, and a restart would meet it again.
    """
    compiled = run.config.train.compile
    try:
        fit(state, batches, make_objective(run), make_schedule(run), hooks, world, validate=validate, compile=compiled)
    except FloatingPointError as error:
        return str(error)
    return ""


def report_validation(validate: Validate, state: TrainState, world: World, reports: Slot, steps: int) -> Validate:
    """Return ``validate`` extended to send its metrics to the trial's mailbox, from the first rank alone.

    A message has the step, the number of images so far, the metrics, and True if the step is the run's last.

    Args:
        reports: the trial's mailbox.
        steps: number of optimizer steps of the run.
    """

    def validate_and_report(model: ScoreModel) -> dict[str, float]:
        metrics = validate(model)
        if world.is_first:
            last = state.step == steps
            reports.send({"step": state.step, "images": state.num_images, "metrics": metrics, "last": last})
        return metrics

    return validate_and_report


def report_checkpoint(run: Run, state: TrainState, world: World, tracker: Tracker | None) -> None:
    """Write a checkpoint to the run's storage and report it to Ray Train; every rank calls this.

    This function also deletes older checkpoints. Ray Train cannot: its list lacks checkpoints that a worker wrote but
    did not report before it died.
    """
    if tracker is not None:
        tracker.secure(5.0)
    name = checkpoint.checkpoint_name(state.step)
    if storage.is_local(run.config.storage):
        write_to_folder(run, state, world)
    else:
        with name_place_of_write(f"the checkpoint of step {state.step}", run.config.storage):
            write_to_remote(run, state, world)
    handed = None
    if world.is_first:
        folder = child_path(storage.absolute_location(run.config.storage), run.config.name)
        storage.prune_checkpoints(folder, run.config.keep_checkpoints, state.step)
        system, root = open_filesystem(child_path(folder, name))
        handed = ray.train.Checkpoint(root, system)
    ray.train.report(
        {"step": state.step},
        handed,
        checkpoint_dir_name=name,
        checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD,
    )


def write_to_folder(run: Run, state: TrainState, world: World) -> None:
    """Write a checkpoint atomically into a folder that every node reaches."""
    if world.is_first or has_shards(state.model):
        save_checkpoint(run, state, Path(storage.absolute_location(run.config.storage)) / run.config.name, world)


def write_to_remote(run: Run, state: TrainState, world: World) -> None:
    """Write a checkpoint to remote storage; each rank of a sharded model sends its part, and checkpoint.json comes
    last."""
    sharded = has_shards(state.model)
    target = child_path(run.config.storage, run.config.name, checkpoint.checkpoint_name(state.step))
    if world.is_first:
        storage.clear_checkpoint(target)
    if sharded:
        world.barrier()
    with tempfile.TemporaryDirectory(prefix="raysde-") as folder:
        path = Path(folder) / "checkpoint"
        if sharded:
            distributed_checkpoint.write_rank_part(path, state, *describe_run(run), world)
        elif world.is_first:
            checkpoint.write_checkpoint(path, state, *describe_run(run))
        storage.send_files(path, target)
        if sharded:
            world.barrier()
        if world.is_first:
            storage.send_description(path, target)


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
    batches: Iterator[list[Microbatch]], started: float, tracker: Tracker
) -> Iterator[list[Microbatch]]:
    """Pass batches on, and tag the run with the seconds from ``started`` (a ``time.time()``) to the first batch."""
    for number, batch in enumerate(batches):
        if number == 0:
            tracker.tags({"raysde.startup.first_batch": f"{time.time() - started:.1f}"})
        yield batch
