"""The training loop. It runs bare, under torchrun and under Ray Train; it meets the outside only through ``Hooks``."""

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
from raysde.distributed.fsdp import exchange_gradients, has_shards
from raysde.distributed.world import World, wrap_module
from raysde.models.score import ScoreModel
from raysde.networks.compile import compile_blocks
from raysde.training import optimizers
from raysde.training.objective import Objective, microbatch_loss
from raysde.training.state import TrainState

Validate = Callable[[ScoreModel], dict[str, float]]


class Hooks(Protocol):
    """The outside world, as the loop sees it."""

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Takes metrics of a step; called on the first rank alone."""

    def save(self, state: TrainState) -> None:
        """Keeps the state; called on every rank, at the same step."""

    def snapshot(self, state: TrainState) -> None:
        """Keeps the averages for post-hoc EMA for good, before ``save``; called as ``sample`` is."""

    def sample(self, state: TrainState) -> None:
        """Makes pictures of progress; called with the averaged weights in the model, on the first rank alone, or on
        every rank where the model is sharded."""

    def should_stop(self) -> bool:
        """Return True to leave with a checkpoint, from which the run can go on; any rank's yes counts for all. A single
        process is asked after each step, several ranks when metrics are logged, since they have to agree."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how often; every count is in steps, and 0 means never.

    Attributes:
        steps: length of the run.
        lr, warmup, decay: see :func:`raysde.training.optimizers.learning_rate`.
        clip: largest gradient norm, 0 for none.
        log_every, validate_every, sample_every, save_every: frequencies.
        snapshot_every: of averages kept for post-hoc EMA, which are also kept whenever a checkpoint is.
        patience: validations without improvement after which the run stops, 0 for never.
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
    """One optimiser step on this rank's microbatches of a global batch.

    Losses are divided by the microbatches that a rank has on average, since gradients are averaged over ranks: so the
    update is that of the global batch also where ranks have unequal shares.
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
    for profile in state.profiles:  # their profile is over images seen, so a step without an update counts
        profile.update(objective.batch, state.num_images)
    state.pending.append((total, norm, lr))


def flush_losses(state: TrainState, world: World) -> list[tuple[float, float, float]]:
    """Brings the pending losses to the host, averaged over ranks; they stay pending.

    Raises:
        FloatingPointError: on every rank, naming the first step whose loss is not finite, or whose gradient is not
            although no gradient scaler would have skipped it.
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
    # the averages replace this rank's own losses, so that a resumed run logs what this one would
    state.pending = list(zip(losses.tolist(), norms, rates, strict=True))
    return state.pending


def is_due(step: int, every: int, last: bool = False) -> bool:
    """Whether something that happens every so many steps (0: never) happens after ``step``."""
    return every > 0 and (step % every == 0 or last)


def warm_up(
    state: TrainState, forward: nn.Module, batch: Microbatch, objective: Objective, device: torch.device
) -> None:
    """One forward and backward pass whose gradients are thrown away.

    DistributedDataParallel lays its buckets out anew after the first backward pass, and another layout is another
    summation order; after this, a fresh and a resumed process sum alike.
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
    """Trains ``state`` from its step to ``schedule.steps``, unless the hooks ask to leave.

    Args:
        batches: this rank's microbatches, one list a step, from ``state.step`` on.
        validate: loss of a model on held-out rows, equal on all ranks.
        compile: whether the network's blocks are compiled, in place.

    Raises:
        ValueError: if the batches do not begin at ``state.step`` or skip a step.
        FloatingPointError: if a loss is not finite.
    """
    state.model.train()
    if compile:
        compile_blocks(state.model.network)
    forward = state.model if has_shards(state.model) else wrap_module(state.model, world)
    clock, primed = Clock(state), False
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
            clock.reset()  # the first batch belongs to the start-up, which is measured by itself
        train_step(state, forward, step_batches, objective, schedule, world)
        leaving = run_due_actions(state, schedule, hooks, world, validate, clock)


class Clock:
    """Images per second between two logs, without the time that validation, pictures and checkpoints take; and the
    time spent waiting for data."""

    def __init__(self, state: TrainState) -> None:
        self.state = state
        self.reset()

    def reset(self) -> None:
        self.since, self.images = time.perf_counter(), self.state.num_images
        self.paused, self.waited = 0.0, 0.0

    def elapsed(self) -> float:
        return max(time.perf_counter() - self.since - self.paused, 1e-9)

    def rate(self) -> float:
        return (self.state.num_images - self.images) / self.elapsed()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.waited += time.perf_counter() - start

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.paused += time.perf_counter() - start


def run_due_actions(
    state: TrainState, schedule: Schedule, hooks: Hooks, world: World, validate: Validate | None, clock: Clock
) -> bool:
    """Do what is due after a step: log, validate, draw, save. Return True if the hooks ask to leave."""
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
        leaving = (logs or world.size == 1) and world.any(hooks.should_stop())
        keep_checkpoint(state, schedule, hooks, world, leaving)
    return leaving


def keep_checkpoint(state: TrainState, schedule: Schedule, hooks: Hooks, world: World, leaving: bool = False) -> None:
    """Keeps a checkpoint and the averages for post-hoc EMA where they are due, unless the run has gone wrong."""
    save = is_due(state.step, schedule.save_every) or state.step == schedule.steps or state.stopped or leaving
    snapshot = bool(state.profiles) and (save or is_due(state.step, schedule.snapshot_every))
    if (save or snapshot) and state.pending:
        flush_losses(state, world)
    if snapshot and (world.is_first or has_shards(state.model)):
        hooks.snapshot(state)  # first: a run that resumes from the checkpoint will not come by here again
    if save:
        hooks.save(state)


def log_pending_losses(state: TrainState, hooks: Hooks, world: World, clock: Clock) -> None:
    """Logs the mean of the pending steps and empties them."""
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
    """Return the mean gradient norm as a metric, without steps that the gradient scaler skipped; empty without others.

    The scaler of fp16 tries large factors and skips the steps at which gradients overflow, with a norm of inf or nan.
    """
    taken = [norm for norm in norms if math.isfinite(norm)]
    return {"train/grad_norm": sum(taken) / len(taken)} if taken else {}


def measure_average(state: TrainState, validate: Validate) -> dict[str, float]:
    """What a validation gives for the averaged weights."""
    state.model.eval()
    with state.ema.swap_weights(), torch.no_grad():
        metrics = validate(state.model)
    state.model.train()
    return metrics


def validate_average(state: TrainState, patience: int, hooks: Hooks, world: World, validate: Validate) -> None:
    """Measures the averaged weights on held-out rows; stops the run when it no longer helps."""
    metrics = measure_average(state, validate)
    if world.is_first:
        hooks.log(state.step, metrics)
    if metrics["val/loss"] < state.best:
        state.best, state.stale = metrics["val/loss"], 0
    else:
        state.stale += 1
    state.stopped = state.stopped or world.any(patience > 0 and state.stale >= patience)
