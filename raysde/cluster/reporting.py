"""The measurements of a worker, and their reports to the trial of a sweep that waits for them."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from raysde.cluster.beside import CheckpointActors
from raysde.cluster.trial_reports import Slot
from raysde.distributed.world import World
from raysde.models.score import ScoreModel
from raysde.runs.build import make_validator
from raysde.runs.quality import make_quality
from raysde.runs.run import Run
from raysde.runs.saving import Saver
from raysde.training.beside import Beside, Measurement
from raysde.training.loop import is_due
from raysde.training.measuring import Validate, measure_average
from raysde.training.state import TrainState


@dataclass(frozen=True)
class Measures:
    """The measurements of a run, None for those that the recipe does not have.

    Attributes:
        validate: losses on held-out rows.
        quality: metrics of drawn images, by the workers.
        beside: metrics of drawn images, beside training.
        actors: the actors that measure beside training, which end with this context.
    """

    validate: Validate | None
    quality: Validate | None
    beside: Beside | None = None
    actors: AbstractContextManager[Any] = field(default_factory=nullcontext)

    def reporting(self, run: Run, state: TrainState, world: World, reports: Slot, *, resumed: bool) -> "Measures":
        """Return the measurements of a trial; those with the metric of the sweep send a report.

        Args:
            reports: the trial's mailbox.
            resumed: True if the state is from a checkpoint. The trial process may have died with its report of that
                step, which is measured again.
        """
        if self.beside is not None and reports.metric in run.config.validation.quality_names:
            sending = ReportedBeside(self.beside, state, world, reports, run.steps)
            if resumed:
                sending.report_again()
            return replace(self, beside=sending)
        by_quality = reports.metric in run.config.validation.quality_names
        plain = self.quality if by_quality else self.validate
        if plain is None:
            return self
        reported = report_measurement(plain, state, world, reports, run.steps)
        every = run.config.validation.interval_of(reports.metric)
        if resumed and is_due(state.step, every, state.step == run.steps):
            measure_average(state, reported)
        return replace(self, quality=reported) if by_quality else replace(self, validate=reported)


def make_measures(
    run: Run, state: TrainState, world: World, saver: Saver, reports: Slot | None, *, resumed: bool
) -> Measures:
    """Return the measurements of a run; every rank must call it.

    Args:
        saver: writes the run's checkpoints.
        reports: the mailbox of a sweep's trial; None for a run of its own.
        resumed: True if the state is from a checkpoint.

    Raises:
        ValueError: if model, data and metrics do not fit together.
    """
    validate = make_validator(run, world)
    if run.config.validation.is_beside:
        actors = CheckpointActors(run, state.model, world, saver)
        made = Measures(validate, None, actors, actors)
    else:
        made = Measures(validate, make_quality(run, state.model, world))
    return made if reports is None else made.reporting(run, state, world, reports, resumed=resumed)


@dataclass(frozen=True)
class ReportedBeside:
    """Measurements beside training that also send their metrics to a trial's mailbox, once decisions use them.

    Attributes:
        inner: the measurements.
        reports: the trial's mailbox.
        steps: number of optimizer steps of the run.
    """

    inner: Beside
    state: TrainState
    world: World
    reports: Slot
    steps: int

    def submit(self, step: int) -> None:
        self.inner.submit(step)

    def collect(self, step: int) -> dict[str, float]:
        metrics = self.inner.collect(step)
        self._send(step, self.state.beside.open[step].with_result(metrics))
        return metrics

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        self.inner.record(step, metrics)

    def finish(self, step: int, values: Mapping[str, Any]) -> None:
        self.inner.finish(step, values)

    def report_again(self) -> None:
        """Send the results in a checkpoint again: the trial process may have died with them."""
        for step, each in sorted((self.state.beside.used | self.state.beside.open).items()):
            if each.metrics is not None:
                self._send(step, each)

    def _send(self, step: int, found: Measurement) -> None:
        if self.world.is_first:
            last = step == self.steps
            self.reports.send({"step": step, "images": found.images, "metrics": found.values, "last": last})


def report_measurement(measure: Validate, state: TrainState, world: World, reports: Slot, steps: int) -> Validate:
    """Return ``measure`` extended to send its metrics to the trial's mailbox, from the first rank alone.

    A message has the step, the number of images so far, the metrics measured at that step, and True if the step is the
    run's last.

    Args:
        reports: the trial's mailbox.
        steps: number of optimizer steps of the run.
    """

    def measure_and_report(model: ScoreModel) -> dict[str, float]:
        metrics = measure(model)
        if world.is_first:
            last = state.step == steps
            before = {name: value for name, value in state.metrics.items() if value is not None}
            known = {**before, **metrics}
            reports.send({"step": state.step, "images": state.num_images, "metrics": known, "last": last})
        return metrics

    return measure_and_report
