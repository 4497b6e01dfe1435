"""The training loop's hooks: destinations of metrics, pictures, checkpoints and averages."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from torch import Tensor

from raysde import rng
from raysde.checkpoints import checkpoint, ema_snapshots
from raysde.conditioning.images import ColumnCondition, ImageCondition, draw_planes
from raysde.data.batches.microbatch import Microbatch, make_microbatch
from raysde.distributed.fsdp import autocast_evaluation, has_shards
from raysde.distributed.world import World
from raysde.images.tensors import to_float
from raysde.inference.image_conditions import sample_with_planes
from raysde.inference.model import Model
from raysde.inference.samples import Drawn
from raysde.io.filesystems import child_path
from raysde.models.score import ScoreModel
from raysde.models.spec import ModelSpec
from raysde.runs.build import gathered_dtype
from raysde.runs.run import Run
from raysde.training.state import TrainState


class Sink(Protocol):
    """A receiver of metrics and pictures, such as :class:`raysde.tracking.Tracker`."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Receive metrics by name after training step ``step``."""

    def image(self, step: int, name: str, image: Image.Image) -> None:
        """Receive a picture named ``name`` after training step ``step``."""


@dataclass
class RunHooks:
    """The hooks of a run.

    Attributes:
        sink: receives metrics and pictures; None on other ranks than the first.
        keep: saves a checkpoint, such as :meth:`raysde.runs.saving.Saver.save`.
        stop: returns True to end the run.
        keep_averages: stores the averages for post-hoc EMA; None to write them at once.
        load: loads the checkpoint that a bad step returns to, such as :meth:`raysde.runs.saving.Saver.restore`; None
            for a run that does not return.
        check: raises :class:`raysde.io.errors.TakenOver` if the run is no longer this process's, see
            :mod:`raysde.runs.lease`; called before anything is written.
    """

    run: Run
    sink: Sink | None
    keep: Callable[[TrainState], None]
    stop: Callable[[], bool] = lambda: False
    keep_averages: Callable[[TrainState], None] | None = None
    check: Callable[[], None] = lambda: None
    load: Callable[[TrainState], None] | None = None

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Pass metrics of training step ``step`` to the sink, if there is one."""
        self.check()
        if self.sink is not None:
            self.sink.metrics(step, metrics)

    def save(self, state: TrainState) -> None:
        self.check()
        self.keep(state)

    def snapshot(self, state: TrainState) -> None:
        self.check()
        if self.keep_averages is not None:
            self.keep_averages(state)
        else:
            ema_snapshots.write_snapshot(child_path(self.run.config.storage, self.run.config.name), state)

    def restore(self, state: TrainState) -> None:
        self.check()
        assert self.load is not None, "a run with train.on_bad_step=rollback has a saver"
        self.load(state)

    def sample(self, state: TrainState) -> None:
        if self.sink is None and not has_shards(state.model):
            return
        device = next(state.model.parameters()).device
        with autocast_evaluation(state.model, gathered_dtype(self.run, device)):
            picture = draw_sample_grid(self.run, state.model)
        if self.sink is not None:
            self.check()
            picture.info.update(run=self.run.config.name, step=state.step)
            self.sink.image(state.step, "grid", picture)
        state.model.train()

    def should_stop(self) -> bool:
        self.check()
        return self.stop()


def draw_sample_grid(run: Run, model: ScoreModel) -> Image.Image:
    """Draw the recipe's sample grid; a model with an image condition takes the images of some rows, which are
    shown if they are second images."""
    sampling, whole = run.config.sampling, Model(model, run.spec)
    draw: Callable[..., Drawn] = partial(whole.sample, n=sampling.count)
    if isinstance(run.spec.image_condition, ColumnCondition):
        draw = partial(whole.sample, n=sampling.count, condition_images=grid_rows(run).condition_images)
    elif run.spec.image_condition is not None:
        planes = grid_planes(run, run.spec.image_condition).to(whole.device)
        draw = partial(draw_with_planes, whole, planes)
    drawn = draw(
        prompts=list(islice(cycle(sampling.prompts), sampling.count)) or None,
        labels=list(islice(cycle(sampling.labels), sampling.count)) or None,
        attributes={name: list(islice(cycle(values), sampling.count)) for name, values in sampling.attributes.items()},
        seed=sampling.seed,
        guidance=sampling.guidance,
        **sampling.settings,
    )
    kinds = len(sampling.prompts) or len(sampling.labels) or max(map(len, sampling.attributes.values()), default=10)
    return drawn.grid(min(sampling.count, kinds))


def draw_with_planes(model: Model, planes: Tensor, **drawing: Any) -> Drawn:
    """Return images drawn under planes [N, E, H, W]; ``drawing`` is as for :func:`raysde.inference.sample.sample`."""
    return sample_with_planes(model, len(planes), lambda rows: planes[rows], {}, drawing)


def grid_planes(run: Run, condition: ImageCondition) -> Tensor:
    """Return the planes [count, E, H, W] that the sample grid takes as conditions."""
    x0 = to_float(grid_rows(run).images, *run.config.data.range)
    return draw_planes(replace(condition, dropout=0.0), x0, rng.generator(run.config.sampling.seed, rng.GIVEN))


def grid_rows(run: Run) -> Microbatch:
    """Return the rows whose images the sample grid takes as conditions: the first held-out rows, or training rows
    without enough of them."""
    sampling, rows = run.config.sampling, run.held_out
    if len(rows) < sampling.count:
        rows = run.feed.rows[np.arange(sampling.count) % run.feed.rows.count]
    chosen = np.sort(rows[: sampling.count])
    return make_microbatch(0, 0, chosen, run.sources.share_reader(run.feed.fields).read(chosen, run.feed.view))


def save_checkpoint(
    run: Run, state: TrainState, folder: Path, world: World, confirm: Callable[[], None] = lambda: None
) -> Path:
    """Write the checkpoint of ``state`` into ``folder/step_...`` at once, and return that path.

    Call it on the first rank, or on every rank if the model is sharded, with a folder that all ranks reach.

    Args:
        confirm: called on the first rank just before the checkpoint becomes visible; an error leaves none.
    """
    target = folder / checkpoint.checkpoint_name(state.step)
    ranks = world if has_shards(state.model) else None
    checkpoint.write_checkpoint(target, state, *describe_run(run), ranks, confirm)
    return target


def describe_run(run: Run) -> tuple[ModelSpec, dict[str, Any], dict[str, Any]]:
    """Return the model, recipe and data entries of a checkpoint."""
    data = {**run.data_identity, "microbatch": run.plan.microbatch, "order": run.plan.order}
    return run.spec, run.config.flat(), data
