"""The training loop, run bare, under torchrun and under Ray Train; ``Hooks`` is its only interface to the outside."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from raysde.data.batches.microbatch import Microbatch
from raysde.distributed.agreement import Agreement
from raysde.distributed.fsdp import exchange_gradients, has_shards
from raysde.distributed.world import World, wrap_module
from raysde.networks.compile import compile_blocks
from raysde.training import optimizers
from raysde.training.bad_steps import BadStepRule, OnBadStep
from raysde.training.beside import Beside, begin_measurement, resume_measurements, use_due_measurements, wait_for_all
from raysde.training.clock import Clock
from raysde.training.measuring import Validate, rank_checkpoint, validate_average
from raysde.training.objective import Objective, microbatch_loss
from raysde.training.ranking import BY_LOSS, Ranking
from raysde.training.recovery import leave_out, prepare_recovery, update_unless_bad
from raysde.training.state import TrainState


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

    def restore(self, state: TrainState) -> None:
        """Load the checkpoint of step ``state.bad.base``, or the newest whole one before it, into the state.

        Called on every rank, at the same step, and only if a schedule's ``on_bad_step`` is ``rollback``.
        """

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
        patience: number of measurements of the ranking's metric without improvement that stop the run, 0 for never.
        ranking: metric that ranks checkpoints and counts for ``patience``.
        quality_every: interval of the metrics of drawn images, each with a sample grid.
        delay: steps after a measurement beside training at which decisions use it.
        ranks_by_quality: True if the ranking's metric is one of drawn images.
        ranks_all: True to measure each checkpoint of the schedule that is not measured at its step anyway.
        on_bad_step: ``stop`` ends the run at a loss or gradient that is not finite. ``skip`` leaves out the update of a
            bad step. ``rollback`` returns to the last checkpoint, and passes over the batches since then. Both need the
            loss of each step on the host, so that the host waits for the device.
        bad_steps: definition of a bad step for ``skip`` and ``rollback``, and the number of them.
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
    ranking: Ranking = BY_LOSS
    ranks_all: bool = False
    quality_every: int = 0
    delay: int = 0
    ranks_by_quality: bool = False
    on_bad_step: OnBadStep = "stop"
    bad_steps: BadStepRule = field(default_factory=BadStepRule)


def train_step(
    state: TrainState,
    forward: nn.Module,
    batches: list[Microbatch],
    objective: Objective,
    schedule: Schedule,
    world: World,
) -> str:
    """Take one optimizer step on this rank's microbatches of a global batch.

    Losses are divided by the mean number of microbatches per rank, because gradients are averaged over ranks. The
    update is therefore that of the global batch even if ranks have unequal shares.

    Returns:
        The fault of a bad step, whose update is left out, equal on all ranks; an empty string for a good step, and
        always if ``schedule.on_bad_step`` is ``stop``.

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
        schedule.lr,
        state.updates + state.bad.skipped,
        schedule.warmup,
        schedule.decay,
        state.step / schedule.steps,
    )
    norm, stepped, fault = update_unless_bad(state, total, lr, schedule, world)
    state.step += 1
    state.num_images += objective.batch
    if stepped:
        state.updates += 1
        state.ema.update(objective.batch, state.num_images)
    for profile in state.profiles:  # profiles are over images seen, so a step without an update counts
        profile.update(objective.batch, state.num_images)
    if not fault:
        state.pending.append((total, norm, lr))
    return fault


def flush_losses(state: TrainState, world: World) -> list[tuple[float, float, float]]:
    """Copy the pending losses to the host, averaged over ranks, and return them; they stay pending.

    Returns:
        (loss, gradient norm, learning rate) of each pending step.

    Raises:
        FloatingPointError: on every rank, naming the first step whose loss is not finite, or whose gradient is not
            finite without a gradient scaler that would have skipped the step.
    """
    if not state.pending:  # all steps since the last log were bad
        return []
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
    quality: Validate | None = None,
    beside: Beside | None = None,
    compile: bool = False,
) -> None:
    """Train ``state`` from its step to ``schedule.steps``, or until a hook asks to stop.

    Args:
        batches: this rank's microbatches, one list per step, from plan position ``state.position`` on.
        validate: returns validation metrics of a model, equal on all ranks.
        quality: returns metrics of images that a model draws, equal on all ranks.
        beside: measures such metrics beside training, in place of ``quality``.
        compile: True to compile the network's blocks in place.

    Raises:
        ValueError: if the batches do not begin at ``state.position`` or skip a step, or a bad step finds no whole
            checkpoint to return to.
        FloatingPointError: if a loss is not finite and ``schedule.on_bad_step`` is ``stop``, or there are more bad
            steps than ``schedule.bad_steps`` allows.
    """
    state.model.train()
    if compile:
        compile_blocks(state.model.network)
    forward = state.model if has_shards(state.model) else wrap_module(state.model, world)
    clock, agreement, primed = Clock(state), Agreement(world), False
    prepare_recovery(state, schedule, hooks)
    leaving = False
    if beside is not None:
        resume_measurements(state, beside)
    while state.step < schedule.steps and not (state.stopped or leaving):
        with clock.waiting():
            step_batches = next(batches, None)
        position = state.position
        if step_batches is None or any(batch.step != position for batch in step_batches):
            found = "no more data" if step_batches is None else f"data of step {step_batches[0].step}"
            raise ValueError(f"the data stream does not follow the plan: step {position} expected, {found} received")
        if not primed:
            warm_up(state, forward, step_batches[0], objective, world.device)
            primed = True
            clock.reset()  # the first batch counts as start-up time, which is measured separately
        fault = train_step(state, forward, step_batches, objective, schedule, world)
        if fault and leave_out(state, position, fault, schedule, hooks, world):
            clock.reset()  # images were counted back
            continue
        leaving = run_due_actions(state, schedule, hooks, world, validate, clock, agreement, quality, beside)
    agreement.finish()
    if beside is not None and (state.stopped or state.step >= schedule.steps):
        wait_for_all(state, hooks, world, beside)


def run_due_actions(
    state: TrainState,
    schedule: Schedule,
    hooks: Hooks,
    world: World,
    validate: Validate | None,
    clock: Clock,
    agreement: Agreement,
    quality: Validate | None = None,
    beside: Beside | None = None,
) -> bool:
    """Run the actions due after a step: log, validate, sample, save. Return True if a hook asks to stop.

    Args:
        validate, quality, beside: see :func:`fit`.
        clock: rate of images since the last log entry.
        agreement: what the ranks agreed on about this step.

    Raises:
        FloatingPointError: as :func:`flush_losses`.
    """
    step, last = state.step, state.step == schedule.steps
    draws, logs = world.is_first or has_shards(state.model), is_due(step, schedule.log_every, last)
    if logs:
        log_pending_losses(state, hooks, world, clock)
    with clock.pause():
        if validate is not None and is_due(step, schedule.validate_every, last):
            validate_average(state, schedule.patience, hooks, world, validate, schedule.ranking)
        if beside is not None:
            use_due_measurements(state, schedule, hooks, world, beside)
        measures = (quality or beside) is not None and is_due(step, schedule.quality_every, last)
        if quality is not None and measures:
            validate_average(state, schedule.patience, hooks, world, quality, schedule.ranking)
        if draws and (measures or is_due(step, schedule.sample_every, last)):
            with state.ema.swap_weights():
                hooks.sample(state)
        # last, since validation and pictures may take minutes
        leaving = agreement.any(hooks.should_stop())
        is_time = (logs or world.size == 1) and world.any(world.is_first and clock.is_time(schedule.save_seconds))
        if schedule.on_bad_step == "rollback" and (is_time or is_due(step, schedule.save_every)):
            state.bad.base = step  # a checkpoint written on leaving is no base: without the leaving there were none
        ranks = quality if schedule.ranks_by_quality else validate
        ranked = schedule.ranks_all and (is_time or is_checkpoint(state, schedule))
        if ranked and ranks is not None:
            rank_checkpoint(state, schedule.ranking, hooks, world, ranks)
        apart = beside if measures or (ranked and schedule.ranks_by_quality) else None
        if apart is not None:
            begin_measurement(state)
        keep_checkpoint(state, schedule, hooks, world, leaving or is_time or apart is not None)
        if apart is not None:
            apart.submit(step)
        if is_time:
            clock.note_saved()
    return leaving


def is_checkpoint(state: TrainState, schedule: Schedule) -> bool:
    """Return True if the schedule has a checkpoint at the state's step, or the run ends there."""
    return is_due(state.step, schedule.save_every) or state.step == schedule.steps or state.stopped


def keep_checkpoint(state: TrainState, schedule: Schedule, hooks: Hooks, world: World, now: bool = False) -> None:
    """Write a checkpoint and the averages for post-hoc EMA if due; FloatingPointError if losses are not finite.

    Args:
        now: True to write both although this step is not one of ``schedule``.
    """
    save = is_checkpoint(state, schedule) or now
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
            **({"train/loss": sum(loss for loss, _, _ in done) / len(done)} if done else {}),
            **grad_norm([norm for _, norm, _ in done]),
            **(optimizers.rate_metrics(state.optimizer, done[-1][2]) if done else {}),
            **state.bad.metrics(),
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
