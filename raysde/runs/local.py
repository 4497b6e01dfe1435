"""Training without Ray, in this process or in every process of torchrun."""

import os
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist

from raysde.checkpoints import storage
from raysde.data.batches.microbatch import Microbatch, read_batches
from raysde.data.batches.prefetch import prefetch_to_device
from raysde.distributed.world import current_world
from raysde.io.progress import say
from raysde.runs.build import make_objective, make_schedule, make_validator, new_state
from raysde.runs.hooks import RunHooks, Sink
from raysde.runs.lease import Lease
from raysde.runs.quality import make_quality
from raysde.runs.resume import resume_newest
from raysde.runs.run import Run
from raysde.runs.saving import Saver
from raysde.training.loop import fit
from raysde.training.recovery import extend_batches
from raysde.training.state import TrainState


def train_here(
    run: Run, sink: Sink | None, should_stop: Callable[[], bool] = lambda: False, lease: Lease | None = None
) -> TrainState:
    """Train to the end of the recipe, resuming from the run's newest checkpoint if it has one.

    Under torchrun every process calls this; ``sink`` is used on the first rank alone.

    Args:
        should_stop: returns True to end the run with a checkpoint, see :class:`raysde.training.loop.Hooks`.
        lease: the command's lease of the run, on the first rank; None for none.

    Raises:
        ValueError: if the storage is not a local folder, or the checkpoint does not fit the recipe.
        FloatingPointError: as :func:`raysde.training.loop.fit`.
        TakenOver: if another command took the run over.
    """
    check_place(run)
    if "RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    world = current_world()
    state = new_state(run, world.device)
    run = resume_newest(run, state, world, say if world.is_first else lambda message: None)

    reader, feed = run.sources.open_reader(run.feed.fields), run.feed

    def read(first: int, stop: int) -> Iterator[list[Microbatch]]:
        return prefetch_to_device(read_batches(feed, reader, first, stop, world.rank, world.size), world.device)

    stop = run.steps + state.bad.passed
    batches = extend_batches(read(state.position, stop), stop, state, run.steps, read)
    check, confirm = (lambda: None, lambda: None) if lease is None else (lease.check, lease.confirm)
    quality = make_quality(run, state.model, world)
    try:
        with Saver(run, state, world, confirm=confirm) as saver:
            kept = sink if world.is_first else None
            hooks = RunHooks(run, kept, saver.save, should_stop, saver.snapshot, check, saver.restore)
            fit(
                state,
                batches,
                make_objective(run),
                make_schedule(run),
                hooks,
                world,
                validate=make_validator(run, world),
                quality=quality,
                compile=run.config.train.compile,
            )
    except OSError:
        confirm()  # a command that took the run over may have removed what this one was writing or removing
        raise
    return state


def check_place(run: Run) -> None:
    """Check that training without Ray can use a run's storage, and measures on its own processes.

    Raises:
        ValueError: if the storage is not a local folder, or metrics are to be measured beside training.
    """
    if run.config.validation.is_beside:
        raise ValueError(
            "validation.where=beside needs Ray, whose actors measure beside training; set validation.where=workers, or "
            "train without --no-ray"
        )
    if not storage.is_local(run.config.storage):
        raise ValueError(
            f"storage {run.config.storage!r} is not a local folder, which training without Ray needs; "
            "set storage to one"
        )
