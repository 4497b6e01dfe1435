"""What each Ray Train worker does: the bare loop, fed by the stream, reporting checkpoints to Ray."""

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
from raysde.runs.resume import describe_start, resume_run
from raysde.runs.run import Run, open_run
from raysde.tracking.backlog import backlog_folder
from raysde.training.loop import Validate, fit, is_due, measure_average
from raysde.training.state import TrainState

if TYPE_CHECKING:
    from raysde.tracking import Tracker


def run_worker(settings: dict[str, Any]) -> dict[str, Any]:
    """Trains to the end of the recipe, from the newest checkpoint if there is one."""
    torch.set_num_threads(settings["threads"])
    quiet_ray()
    run, world = open_run(loading.parse_recipe(settings["recipe"])), current_world()
    alone = settings["reports"] is None  # no trial of a sweep
    if alone and world.is_first:
        tell_warnings()
    check_shared(run)
    found = storage.fetch_newest_checkpoint(run.config.storage, run.config.name)
    start = 0 if found is None else checkpoint.read_description(found).step
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
            # the process that was told of this step may have died with it
            measure_average(state, validate)
    begin = time.perf_counter()
    with exit_at_once_on_sigterm():
        failed = run_loop(run, state, batches, hooks, world, validate)
    if tracker is not None:
        tracker.tags({"raysde.seconds.loop": f"{time.perf_counter() - begin:.1f}"})
        if not tracker.close():
            tell_driver("MLflow did not take all metrics in time; they wait beside the run's checkpoints")
    return {"step": state.step, "failed": failed}


def check_shared(run: Run) -> None:
    """Look for the folder of the run, which the driver has made.

    Raises:
        ValueError: if it is not in the storage that this worker sees.
    """
    place = run.config.storage
    if storage.is_local(place) and not (Path(storage.absolute_location(place)) / run.config.name).is_dir():
        raise ValueError(
            f"storage {place} is not one folder for all nodes: give a folder that every node reaches, or a URI such as "
            "s3://bucket/runs"
        )


def read_microbatches(run: Run, start: int, world: World) -> Iterator[list[Microbatch]]:
    """This rank's microbatches of the steps from ``start``: from Ray Data, or read here.

    Raises:
        ValueError: if there are more workers than microbatches.
    """
    if run.config.data.stream == "worker":
        reader = Reader(run.manifest, text=run.text, latents=run.latents)
        return read_batches(run.feed, reader, start, run.steps, world.rank, world.size)
    shard = ray.train.get_dataset_shard("train")
    return read_stream(shard, stream_spec(run, start), run.manifest.channels, world.rank, world.size)


def open_tracker(settings: dict[str, Any]) -> Tracker:
    """The first worker's; imported here, since MLflow costs the others seconds of their start."""
    from raysde.tracking import Tracker

    folder = child_path(settings["recipe"]["storage"], settings["recipe"]["name"])
    backlog = backlog_folder(folder, settings["run_id"])
    return Tracker(settings["tracking_uri"], settings["run_id"], Path(settings["spool"]), backlog)


@contextmanager
def exit_at_once_on_sigterm() -> Iterator[None]:
    """While this lasts, a process that is told to end does so without taking Python down.

    Ray trains in a thread, and one that is inside torch's backward while the main thread ends aborts the process, with
    a stack trace in the terminal of whoever runs a sweep that stops a trial.
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
    """Runs the loop; a loss that is not finite is returned as a message.

    Every rank meets it at the same step, and a restart would meet it again.
    """
    compiled = run.config.train.compile
    try:
        fit(state, batches, make_objective(run), make_schedule(run), hooks, world, validate=validate, compile=compiled)
    except FloatingPointError as error:
        return str(error)
    return ""


def report_validation(validate: Validate, state: TrainState, world: World, reports: Slot, steps: int) -> Validate:
    """The same validation, whose results are also sent to whom a trial reports, and whether it was at the end."""

    def validate_and_report(model: ScoreModel) -> dict[str, float]:
        metrics = validate(model)
        if world.is_first:
            last = state.step == steps
            reports.send({"step": state.step, "images": state.num_images, "metrics": metrics, "last": last})
        return metrics

    return validate_and_report


def report_checkpoint(run: Run, state: TrainState, world: World, tracker: Tracker | None) -> None:
    """Keep a checkpoint in the run's storage and tell Ray Train of it; called on every rank.

    Older checkpoints are deleted here rather than by Ray Train, whose list lacks those that a worker had written and
    not yet reported when it died.
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
    """Write a checkpoint into a folder that every node reaches, where it appears whole or not at all."""
    if world.is_first or has_shards(state.model):
        save_checkpoint(run, state, Path(storage.absolute_location(run.config.storage)) / run.config.name, world)


def write_to_remote(run: Run, state: TrainState, world: World) -> None:
    """Write a checkpoint into remote storage: of a sharded model each rank sends its part; checkpoint.json is last."""
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
    """Pass batches on, and tell when the first arrives."""
    for number, batch in enumerate(batches):
        if number == 0:
            tell_driver("first batch")
        yield batch


def tell_warnings() -> None:
    """From now on, tell raysde's own warnings, such as that captions are cut, at the driver's terminal."""

    def show(message: Warning | str, category: type[Warning], filename: str, *where: Any, **more: Any) -> None:
        if Path(raysde.__file__).parent in Path(filename).parents:
            tell_driver(f"warning: {message}")

    warnings.showwarning = show  # type: ignore[assignment]


def time_first_batch(
    batches: Iterator[list[Microbatch]], started: float, tracker: Tracker
) -> Iterator[list[Microbatch]]:
    """Passes batches on, and notes when the first arrived, in seconds since the command ``started``."""
    for number, batch in enumerate(batches):
        if number == 0:
            tracker.tags({"raysde.startup.first_batch": f"{time.time() - started:.1f}"})
        yield batch
