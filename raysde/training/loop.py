"""The training loop, run bare, under torchrun and under Ray Train; ``Hooks`` is its only interface to the outside."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from raysde.data.batches.microbatch import Microbatch
from raysde.distributed.agreement import Agreement
from raysde.distributed.fsdp import exchange_gradients, has_shards
from raysde.distributed.world import World, wrap_module
from raysde.models.score import ScoreModel
from raysde.networks.compile import compile_blocks
from raysde.training import optimizers
from raysde.training.objective import Objective, microbatch_loss
from raysde.training.state import TrainState

Validate = Callable[[ScoreModel], dict[str, float]]


class Hooks(Protocol):
    """Callbacks of the training loop."""

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Log metrics of a step; called on rank 0 only."""

    def save(self, state: TrainState) -> None:
        """Write a checkpoint of the state; called on every rank, at the same step."""

    def snapshot(self, state: TrainState) -> None:
        """Store the averages for post-hoc EMA permanently, before ``save``; called on the same ranks as ``sample``."""

    def sample(self, state: TrainState) -> None:
        """Draw a sample grid with the averaged weights in the model; called on rank 0, or on all if it is sharded."""

    def should_stop(self) -> bool:
        """Return True to end the run early with a checkpoint to resume from; True on one rank stops all ranks.

        Called after each step. All ranks stop at the same step, see :class:`raysde.distributed.agreement.Agreement`:
        a single process at once, several ranks within about half a second and two steps.
        The same holds for checkpoints whose interval is a time.
        """


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Length of a run and frequencies of its actions; counts are in steps, and 0 means never.

    Attributes:
        steps: length of the run.
        lr, warmup, decay: see :func:`raysde.training.optimizers.learning_rate`.
        clip: maximum gradient norm, 0 for no clipping.
        log_every, validate_every, sample_every, save_every: intervals of the actions.
        save_seconds: interval of checkpoints in seconds, by the clock of rank 0.
        snapshot_every: interval of snapshots for post-hoc EMA; every checkpoint has one too.
        patience: number of validations without improvement after which the run stops, 0 for never.
    """

    steps: int
    lr: float
    warmup: int = 0
    decay: optimizers.Decay | optimizers.Rule = "constant"
    clip: float = 1.0
    log_every: int = 50
    validate_every: int = 0
    sample_every: int = 0
    save_every: int = 0
    save_seconds: float = 0.0
    snapshot_every: int = 0
    patience: int = 0


def train_step(
    state: TrainState,
    forward: nn.Module,
    batches: list[Microbatch],
    objective: Objective,
    schedule: Schedule,
    world: World,
) -> None:
    """Take one optimizer step on this rank's microbatches of a global batch.

    Losses are divided by the mean number of microbatches per rank, because gradients are averaged over ranks. The
    update is therefore that of the global batch even if ranks have unequal shares.

    Raises:
        ValueError: as :func:`raysde.training.objective.microbatch_loss`.
    """
    device, share = world.device, objective.batch / objective.microbatch / world.size
    total = torch.zeros((), device=device)
    for number, batch in enumerate(batches):
        with exchange_gradients(forward, last=number + 1 == len(batches)):
            loss = microbatch_loss(forward, state.model, batch, objective, device) / share
            state.scaler.scale(loss).backward()
        total += loss.detach()
        state.note_rows(batch.rows)
    lr = optimizers.learning_rate(
        schedule.lr, state.updates, schedule.warmup, schedule.decay, state.step / schedule.steps
    )
    parameters = list(state.trained.values())
    norm, stepped = optimizers.update_parameters(state.optimizer, state.scaler, parameters, schedule.clip, lr)
    state.step += 1
    state.num_images += objective.batch
    if stepped:
        state.updates += 1
        state.ema.update(objective.batch, state.num_images)
    for profile in state.profiles:  # profiles are over images seen, so a step without an update counts
        profile.update(objective.batch, state.num_images)
    state.pending.append((total, norm, lr))


def flush_losses(state: TrainState, world: World) -> list[tuple[float, float, float]]:
    """Copy the pending losses to the host, averaged over ranks, and return them; they stay pending.

    Returns:
        (loss, gradient norm, learning rate) of each pending step.

    Raises:
        FloatingPointError: on every rank, naming the first step whose loss is not finite, or whose gradient is not
            finite without a gradient scaler that would have skipped the step.
    """
    losses = torch.stack(
        [torch.as_tensor(loss, dtype=torch.float64, device=world.device) for loss, _, _ in state.pending]
    )
    losses = world.mean(losses).cpu()
    first = state.step - len(state.pending) + 1
    norms = [float(norm) for _, norm, _ in state.pending]
    for number, (loss, norm) in enumerate(zip(losses.tolist(), norms, strict=True)):
        where = f"at step {first + number}: lower train.lr or set train.clip"
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} {where}")
        if not math.isfinite(norm) and not state.scaler.is_enabled():
            raise FloatingPointError(f"the gradient's norm is {norm} {where}")
    rates = [lr for _, _, lr in state.pending]
    # means over ranks replace this rank's losses, so that a resumed run logs the same values
    state.pending = list(zip(losses.tolist(), norms, rates, strict=True))
    return state.pending


def is_due(step: int, every: int, last: bool = False) -> bool:
    """Return True if an action with interval ``every`` (0: never) follows ``step``, or the run's ``last`` one."""
    return every > 0 and (step % every == 0 or last)


def warm_up(
    state: TrainState, forward: nn.Module, batch: Microbatch, objective: Objective, device: torch.device
) -> None:
    """Run one forward and backward pass and discard the gradients.

    DistributedDataParallel rebuilds its buckets after the first backward pass, which changes the summation order. After
    this pass, a fresh and a resumed process sum alike.

    Raises:
        ValueError: as :func:`raysde.training.objective.microbatch_loss`.
    """
    if isinstance(forward, DistributedDataParallel):
        microbatch_loss(forward, state.model, batch, objective, device).backward()
        state.optimizer.zero_grad(set_to_none=True)


def fit(
    state: TrainState,
    batches: Iterator[list[Microbatch]],
    objective: Objective,
    schedule: Schedule,
    hooks: Hooks,
    world: World,
    *,
    validate: Validate | None = None,
    compile: bool = False,
) -> None:
    """Train ``state`` from its step to ``schedule.steps``, or until a hook asks to stop.

    Args:
        batches: this rank's microbatches, one list per step, from ``state.step`` on.
        validate: returns validation metrics of a model, equal on all ranks.
        compile: True to compile the network's blocks in place.

    Raises:
        ValueError: if the batches do not begin at ``state.step`` or skip a step.
        FloatingPointError: if a loss is not finite.
    """
    state.model.train()
    if compile:
        compile_blocks(state.model.network)
    forward = state.model if has_shards(state.model) else wrap_module(state.model, world)
    clock, agreement, primed = Clock(state), Agreement(world), False
    leaving = False
    while state.step < schedule.steps and not (state.stopped or leaving):
        with clock.waiting():
            step_batches = next(batches, None)
        if step_batches is None or any(batch.step != state.step for batch in step_batches):
            found = "no more data" if step_batches is None else f"data of step {step_batches[0].step}"
            raise ValueError(f"the data stream does not follow the plan: step {state.step} expected, {found} received")
        if not primed:
            warm_up(state, forward, step_batches[0], objective, world.device)
            primed = True
            clock.reset()  # the first batch counts as start-up time, which is measured separately
        train_step(state, forward, step_batches, objective, schedule, world)
        leaving = run_due_actions(state, schedule, hooks, world, validate, clock, agreement)
    agreement.finish()


class Clock:
    """A clock of images per second without validation, sampling and checkpoints, and of seconds waiting for data."""

    def __init__(self, state: TrainState) -> None:
        self.state = state
        self.saved = time.monotonic()
        self.reset()

    def is_time(self, schedule: Schedule) -> bool:
        """Return True if the last checkpoint by time, or the start, is as long ago as the schedule asks for."""
        return 0.0 < schedule.save_seconds <= time.monotonic() - self.saved

    def reset(self) -> None:
        """Start again: count images and seconds from now."""
        self.since, self.images = time.perf_counter(), self.state.num_images
        self.paused, self.waited = 0.0, 0.0

    def elapsed(self) -> float:
        """Return the seconds since the last reset without pauses, at least 1e-9."""
        return max(time.perf_counter() - self.since - self.paused, 1e-9)

    def rate(self) -> float:
        """Return the images per second since the last reset, without pauses."""
        return (self.state.num_images - self.images) / self.elapsed()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the seconds of this context in ``waited``, the time spent waiting for data."""
        start = time.perf_counter()
        yield
        self.waited += time.perf_counter() - start

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Leave the seconds of this context out of :meth:`elapsed` and :meth:`rate`."""
        start = time.perf_counter()
        yield
        self.paused += time.perf_counter() - start


def run_due_actions(
    state: TrainState,
    schedule: Schedule,
    hooks: Hooks,
    world: World,
    validate: Validate | None,
    clock: Clock,
    agreement: Agreement,
) -> bool:
    """Run the actions due after a step: log, validate, sample, save. Return True if a hook asks to stop.

    Raises:
        FloatingPointError: as :func:`flush_losses`.
    """
    step, last = state.step, state.step == schedule.steps
    draws, logs = world.is_first or has_shards(state.model), is_due(step, schedule.log_every, last)
    if logs:
        log_pending_losses(state, hooks, world, clock)
    with clock.pause():
        if validate is not None and is_due(step, schedule.validate_every, last):
            validate_average(state, schedule.patience, hooks, world, validate)
        if draws and is_due(step, schedule.sample_every, last):
            with state.ema.swap_weights():
                hooks.sample(state)
        # last, since validation and pictures may take minutes
        leaving = agreement.any(hooks.should_stop())
        is_time = (logs or world.size == 1) and world.any(world.is_first and clock.is_time(schedule))
        keep_checkpoint(state, schedule, hooks, world, leaving or is_time)
        if is_time:
            clock.saved = time.monotonic()
    return leaving


def keep_checkpoint(state: TrainState, schedule: Schedule, hooks: Hooks, world: World, now: bool = False) -> None:
    """Write a checkpoint and the averages for post-hoc EMA if due; FloatingPointError if losses are not finite.

    Args:
        now: True to write both although this step is not one of ``schedule``.
    """
    save = is_due(state.step, schedule.save_every) or state.step == schedule.steps or state.stopped or now
    snapshot = bool(state.profiles) and (save or is_due(state.step, schedule.snapshot_every))
    if (save or snapshot) and state.pending:
        flush_losses(state, world)
    if snapshot and (world.is_first or has_shards(state.model)):
        hooks.snapshot(state)  # before the checkpoint: a run resumed from it would skip this snapshot
    if save:
        hooks.save(state)


def log_pending_losses(state: TrainState, hooks: Hooks, world: World, clock: Clock) -> None:
    """Log the means of the pending steps and clear them.

    Raises:
        FloatingPointError: as :func:`flush_losses`.
    """
    done = flush_losses(state, world)
    state.pending = []
    if world.is_first:
        metrics = {
            "train/loss": sum(loss for loss, _, _ in done) / len(done),
            **grad_norm([norm for _, norm, _ in done]),
            **optimizers.rate_metrics(state.optimizer, done[-1][2]),
            "train/images_per_second": clock.rate(),
            "train/images": float(state.num_images),
            "train/data_wait": clock.waited / clock.elapsed(),
        }
        hooks.log(state.step, metrics)
    clock.reset()


def grad_norm(norms: list[float]) -> dict[str, float]:
    """Return the mean of ``norms``, one for each step, as a metric, over steps not skipped; empty if all were.

    The scaler of fp16 tries large factors and skips the steps whose gradients overflow, with a norm of inf or nan.
    """
    taken = [norm for norm in norms if math.isfinite(norm)]
    return {"train/grad_norm": sum(taken) / len(taken)} if taken else {}


def measure_average(state: TrainState, validate: Validate) -> dict[str, float]:
    """Return the validation metrics of the averaged weights."""
    state.model.eval()
    with state.ema.swap_weights(), torch.no_grad():
        metrics = validate(state.model)
    state.model.train()
    return metrics


def validate_average(state: TrainState, patience: int, hooks: Hooks, world: World, validate: Validate) -> None:
    """Validate the averaged weights on held-out rows, log the metrics, and stop the run once patience is exhausted."""
    metrics = measure_average(state, validate)
    if world.is_first:
        hooks.log(state.step, metrics)
    if metrics["val/loss"] < state.best:
        state.best, state.stale = metrics["val/loss"], 0
    else:
        state.stale += 1
    state.stopped = state.stopped or world.any(patience > 0 and state.stale >= patience)
