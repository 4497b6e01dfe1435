"""Resuming a run from its checkpoint, and the test if it is already complete."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from raysde.checkpoints import checkpoint, storage
from raysde.checkpoints.description import Kept
from raysde.checkpoints.loading import DamagedCheckpointError, open_verified
from raysde.config.sections import Length
from raysde.data.batches.plan import LANED, WINDOWED
from raysde.data.dataset.layout import Rows
from raysde.distributed.fsdp import has_shards
from raysde.distributed.world import World
from raysde.io.errors import error_line
from raysde.runs.order import make_feed
from raysde.runs.run import Run, continue_run
from raysde.training.beside import OpenMeasurements, open_steps
from raysde.training.state import TrainState


def is_run_over(run: Run, found: checkpoint.Description) -> bool:
    """Return True if a checkpoint ends its run: at the last step, or by early stopping, with all its measurements.

    An early-stopped run resumes if the recipe now asks for more patience or more steps than before.
    """
    if run.config.validation.is_beside and open_steps(found.state):
        return False
    stopped = bool(found.state.get("stopped"))
    return found.step >= run.steps or (stopped and not (_is_longer(run, found) or _is_more_patient(run, found)))


def describe_start(step: int, steps: int) -> str:
    """Return the message about the step that a run resumes from."""
    if step > steps:
        return f"the run is at step {step}, beyond the {steps} of the recipe's length: nothing is left to train"
    return f"continuing from step {step} of {steps}"


def resume_newest(run: Run, state: TrainState, world: World, speak: Callable[[str], None]) -> Run:
    """Resume from the newest checkpoint that is not damaged, if there is one. Every rank must call it.

    Args:
        speak: called with a message for each newer checkpoint that is damaged and passed over, and with the step.

    Raises:
        ValueError: if there are checkpoints and none is whole, or as :func:`raysde.runs.run.continue_run` or
            :func:`follow_order`.
    """
    damaged: dict[str, str] = {}
    said: set[str] = set()

    def speak_once(message: str) -> None:
        if message not in said:
            speak(message)
        said.add(message)

    while found := storage.find_newest_checkpoint(run.config.storage, run.config.name, speak_once, damaged):
        try:
            run = resume_run(run, state, found, world)
        except DamagedCheckpointError as error:
            damaged[error.name] = error.fault
        else:
            speak(describe_start(state.step, run.steps))
            break
    return run


def resume_run(run: Run, state: TrainState, found: Kept, world: World) -> Run:
    """Load a checkpoint into the run's fresh state, and return the run that resumes from it; every rank calls this.

    Raises:
        DamagedCheckpointError: on every rank, if a file differs from its hash.
        ValueError: as :func:`raysde.runs.run.continue_run`.
        RuntimeError: if the storage cannot be read.
    """
    description = found.description
    assert description is not None, "a checkpoint without a description is not chosen"
    run = follow_order(continue_run(run, description), description.data)
    load_checkpoint(run.config.storage, state, found, world)
    if state.stopped and (_is_longer(run, description) or _is_more_patient(run, description)):
        state.stopped = False
        if _is_longer(run, description):
            state.stale = 0  # otherwise the next validation would stop the longer run
    if not run.config.validation.is_beside:
        if state.beside.waits and world.is_first:
            steps = ", ".join(map(str, sorted(open_steps(description.state))))
            warnings.warn(
                f"the metrics of the checkpoints at steps {steps} are left out: they were to be measured beside "
                "training, and validation.where is workers now",
                stacklevel=2,
            )
        state.beside = OpenMeasurements()
    return run


def load_checkpoint(place: str, state: TrainState, found: Kept, world: World) -> None:
    """Load a checkpoint into a state, verified; every rank calls this.

    Args:
        place: storage of the run.

    Raises:
        DamagedCheckpointError: on every rank, if a file differs from its hash.
        ValueError: as :func:`raysde.checkpoints.checkpoint.load_state`.
        RuntimeError: if the storage cannot be read.
    """
    assert found.description is not None, "a checkpoint without a description is not chosen"
    names, sharded = checkpoint.files_to_load(state, found.description, found.path), has_shards(state.model)
    try:
        with open_verified(place, found, names, world, sharded) as files:
            checkpoint.load_state(state, files)
    except OSError as error:
        raise RuntimeError(f"storage {place} cannot be read: {error_line(error)}") from error


def return_to_base(run: Run, state: TrainState, world: World, speak: Callable[[str], None]) -> None:
    """Load the checkpoint that a bad step returns to, see :class:`raysde.training.bad_steps.BadSteps`.

    Every rank must call it.

    Args:
        state: the state of the run, of any step.
        speak: called with a message for each checkpoint that is damaged, instead of which an older one is loaded.

    Raises:
        ValueError: if no checkpoint up to that step is whole.
        RuntimeError: if the storage cannot be read.
    """
    place, name, base = run.config.storage, run.config.name, state.bad.base
    damaged: dict[str, str] = {}
    while found := storage.find_newest_checkpoint(place, name, speak, damaged, base):
        try:
            state.optimizer.state.clear()  # a checkpoint of step 0 has no moments to replace these
            return load_checkpoint(place, state, found, world)
        except DamagedCheckpointError as error:
            damaged[error.name] = error.fault
    raise ValueError(
        f"run {name!r} has no checkpoint up to step {base} in {place}, which train.on_bad_step=rollback needs; "
        "restore it from a copy, or set train.on_bad_step=skip"
    )


def follow_order(run: Run, data: Mapping[str, Any]) -> Run:
    """Return the run with its rows in the order that a checkpoint records.

    Args:
        data: the data entry of the checkpoint; those from before orders had versions are of the first.

    Raises:
        ValueError: if this version of raysde does not know the order.
    """
    order = data.get("order", WINDOWED)
    if order == run.plan.order:
        return run
    if order not in (WINDOWED, LANED):
        raise ValueError(
            f"run {run.config.name!r} reads its rows in order {order}, which this version of raysde does not know; "
            "continue it with the version that wrote its checkpoint, or choose another name to start anew"
        )
    assert isinstance(run.feed.rows, Rows), "the recipe, which was compared, decides if the order is of several sources"
    feed = make_feed(run.config, run.manifest, run.feed.rows, run.feed.view, order)
    return replace(run, feed=replace(feed, fields=run.feed.fields))


def _is_longer(run: Run, found: checkpoint.Description) -> bool:
    """Return True if the recipe asks for more steps than the recipe of the checkpoint."""
    prefix = "train.length."
    length = {key.removeprefix(prefix): value for key, value in found.recipe.items() if key.startswith(prefix)}
    return run.steps > Length(**length).in_steps(run.config.train.batch, run.feed.rows.count)


def _is_more_patient(run: Run, found: checkpoint.Description) -> bool:
    """Return True if the recipe waits for more validations than the recipe of the checkpoint; 0 waits forever."""
    before, now = found.recipe.get("validation.patience", 0), run.config.validation.patience
    return before > 0 and (now == 0 or now > before)
