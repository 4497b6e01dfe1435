"""Recovery from bad steps: skipping an update, or returning to a checkpoint and passing over the batches since then.

Both decisions depend on the plan and on recorded state alone. A run that is killed and resumed therefore repeats them.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from raysde.data.batches.microbatch import Microbatch
from raysde.distributed.world import World
from raysde.training import optimizers
from raysde.training.bad_steps import find_gradient_fault, find_loss_fault
from raysde.training.state import TrainState

if TYPE_CHECKING:
    from raysde.training.loop import Hooks, Schedule


def prepare_recovery(state: TrainState, schedule: "Schedule", hooks: "Hooks") -> None:
    """Note the checkpoint that a bad step of a run with ``rollback`` returns to; a new run saves its initial state."""
    if schedule.on_bad_step != "rollback":
        state.bad.base = None  # nothing keeps that checkpoint from now on
    elif state.bad.base is None:
        state.bad.base = state.step  # of the checkpoint that the run resumed from
        if state.step == 0:
            hooks.save(state)


def update_unless_bad(
    state: TrainState, loss: Tensor, lr: float, schedule: "Schedule", world: World
) -> tuple[Tensor, bool, str]:
    """Update the weights from their gradients, unless the step is bad and the schedule leaves bad steps out.

    Args:
        loss: this rank's loss, a scalar tensor.
        lr: learning rate of the update.

    Returns:
        The gradient norm, a scalar tensor (nan if the loss alone is bad), True if the optimizer stepped, and the fault.
    """
    optimizer, scaler, parameters = state.optimizer, state.scaler, list(state.trained.values())
    if schedule.on_bad_step == "stop":
        return *optimizers.update_parameters(optimizer, scaler, parameters, schedule.clip, lr), ""
    mean = float(world.mean(loss.double()))
    if fault := find_loss_fault(mean, state.bad.losses, schedule.bad_steps):
        optimizer.zero_grad(set_to_none=True)  # the gradient scaler keeps its state too
        return torch.tensor(math.nan), False, fault
    faults: list[str] = []

    def accept(norm: Tensor) -> bool:
        # gradients are averaged over ranks, so their norm is equal on all of them
        faults.append("" if scaler.is_enabled() else find_gradient_fault(float(norm)))
        return not faults[0]

    norm, stepped = optimizers.update_parameters(optimizer, scaler, parameters, schedule.clip, lr, accept)
    if not faults[0]:
        state.bad.note_loss(mean, schedule.bad_steps.window)
    return norm, stepped, faults[0]


def leave_out(state: TrainState, position: int, fault: str, schedule: "Schedule", hooks: "Hooks", world: World) -> bool:
    """Record a bad step, whose update was not made, and return to a checkpoint if the schedule asks for it.

    Args:
        state: the state after the step.
        position: plan position of the step's global batch.
        fault: the reason, as text.

    Returns:
        True if the state is that of the checkpoint now, with the plan position after ``position``.

    Raises:
        FloatingPointError: on every rank, if the run has more bad steps than its rule allows.
        ValueError: if there is no whole checkpoint to return to.
    """
    step, count, most = state.step, state.bad.count + 1, schedule.bad_steps.most
    if count > most:
        raise FloatingPointError(
            f"train.bad_steps.most={most}: bad step {count} is one too many: {fault} at step {step}; lower train.lr, "
            "set train.clip, or raise train.bad_steps.most"
        )
    if schedule.on_bad_step == "skip":
        state.bad.skipped += 1
        done = "its update is left out"
    else:
        rollbacks = state.bad.rollbacks + 1
        hooks.restore(state)
        first, state.bad.rollbacks = state.position, rollbacks
        state.bad.pass_over(first, position + 1)
        done = f"the run returns to step {state.step} and passes over the global batches {first} to {position}"
    if world.is_first:
        warnings.warn(f"{fault} at step {step}: {done} (bad step {count} of at most {most})", stacklevel=2)
    return schedule.on_bad_step == "rollback"


def extend_batches(
    batches: Iterator[list[Microbatch]],
    stop: int,
    state: TrainState,
    steps: int,
    read: Callable[[int, int], Iterator[list[Microbatch]]],
) -> Iterator[list[Microbatch]]:
    """Yield ``batches``, and after them those that a run needs because it passed over others.

    Args:
        stop: plan position after the last of ``batches``.
        state: the state of the run, which counts the batches passed over.
        steps: length of the run.
        read: returns this rank's microbatches of the plan positions [first, stop).
    """
    yield from batches
    while (end := steps + state.bad.passed) > stop:
        start, stop = stop, end
        yield from read(start, stop)
