"""Checkpoints and averages of a run, written beside training."""

import warnings
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self

from raysde.checkpoints import ema_snapshots, storage
from raysde.checkpoints.background import BackgroundWriter
from raysde.checkpoints.description import checkpoint_name
from raysde.checkpoints.ema_snapshots import StagedSnapshot, stage_snapshot
from raysde.checkpoints.staging import HostCopies, Staged, stage_checkpoint
from raysde.checkpoints.writing import fail_together, write_staged
from raysde.distributed.fsdp import has_shards
from raysde.distributed.world import World
from raysde.io.filesystems import child_path
from raysde.runs.hooks import describe_run
from raysde.runs.keeping import make_retention
from raysde.runs.resume import return_to_base
from raysde.runs.run import Run
from raysde.training.state import TrainState


class Saver:
    """Saves a run's state: training waits for a copy to host memory, and a thread writes the copy.

    A checkpoint is never skipped. The next one waits until the one before it is written, and raises its error. Every
    rank makes a saver, and uses it as a context whose end waits for the last checkpoint.

    Args:
        state: the state that is saved.
        secure: called beside training before a checkpoint is written; None on other ranks than the first.
        written: called with the step of a checkpoint once it is whole: on every rank, in the training thread, before
            the next checkpoint or at the end.
        confirm: called beside training on the first rank, just before a checkpoint becomes visible; an error leaves
            none.
    """

    def __init__(
        self,
        run: Run,
        state: TrainState,
        world: World,
        secure: Callable[[], None] | None = None,
        written: Callable[[int], None] | None = None,
        confirm: Callable[[], None] = lambda: None,
    ) -> None:
        self.confirm = confirm
        self.state = state
        self.run, self.world, self.secure, self.written = run, world, secure, written
        self.folder = child_path(storage.absolute_location(run.config.storage), run.config.name)
        self.sharded = has_shards(state.model)
        self.beside = world.beside() if self.sharded else World()
        self.writer = BackgroundWriter()
        self.copies, self.average_copies = HostCopies(), HostCopies()
        self.saved: int | None = None
        """Step of the last checkpoint that ``written`` was not called for."""

    def save(self, state: TrainState) -> None:
        """Copy the state, and have the copy written; every rank must call it.

        Raises:
            Exception: the error of the checkpoint before this one.
        """
        self.writer.wait_for_others(state.step)
        self._tell()
        if self.world.is_first or self.sharded:
            self.writer.add(state.step, partial(self._write, stage_checkpoint(state, self.world, self.copies)))
        self.saved = state.step

    def snapshot(self, state: TrainState) -> None:
        """Copy the averages for post-hoc EMA, and have them written; on the first rank, or on all if sharded.

        Raises:
            Exception: the error of the checkpoint before.
        """
        self.writer.wait_for_others(state.step)
        self.writer.add(state.step, partial(self._write_snapshot, stage_snapshot(state, self.average_copies)))

    def after_save(self, step: int, work: Callable[[], None]) -> None:
        """Do ``work`` beside training on the first rank, once the checkpoint of a step is written.

        Args:
            step: the present step of the run.
        """
        if self.world.is_first:
            self.writer.add(step, work)

    def finish(self) -> None:
        """Wait until every checkpoint is written; every rank must call it.

        Raises:
            Exception: the error of the last checkpoint.
        """
        self.writer.wait()
        self._tell()
        self.world.barrier()  # a rank that goes on finds the last checkpoint

    def restore(self, state: TrainState) -> None:
        """Load the checkpoint that a bad step returns to, once it is written; every rank must call it.

        Checkpoints after it are deleted: they are of steps that the run takes again, with other batches.

        Raises:
            Exception: the error of the last checkpoint.
            ValueError: as :func:`raysde.runs.resume.return_to_base`.
        """
        self.finish()
        return_to_base(self.run, state, self.world, warnings.warn if self.world.is_first else lambda message: None)
        with fail_together(self.world):  # also: no rank goes on before all have loaded
            if self.world.is_first:
                self.confirm()
                storage.delete_later_checkpoints(self.folder, state.step)

    def _tell(self) -> None:
        step, self.saved = self.saved, None
        if step is not None and self.written is not None:
            self.written(step)

    def _write(self, staged: Staged) -> None:
        if self.secure is not None:
            self.secure()
        target = child_path(self.folder, checkpoint_name(staged.step))
        write_staged(target, staged, describe_run(self.run), self.beside, self.confirm)
        if self.world.is_first:
            base = staged.values["bad_steps"]["base"]
            storage.prune_checkpoints(self.folder, make_retention(self.run), staged.step, base)

    def _write_snapshot(self, staged: StagedSnapshot) -> None:
        with fail_together(self.beside):  # no rank writes a checkpoint if the averages before it are lost
            ema_snapshots.write_staged_snapshot(self.folder, staged)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
        else:
            self.writer.__exit__(kind, error, traceback)
