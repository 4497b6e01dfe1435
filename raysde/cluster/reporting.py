"""The measurements of a worker, and their reports to the trial of a sweep that waits for them."""

from dataclasses import dataclass, replace

from raysde.cluster.trial_reports import Slot
from raysde.distributed.world import World
from raysde.models.score import ScoreModel
from raysde.runs.run import Run
from raysde.training.loop import is_due
from raysde.training.measuring import Validate, measure_average
from raysde.training.state import TrainState


@dataclass(frozen=True)
class Measures:
    """The measurements of a run, None for those that the recipe does not have.

    Attributes:
        validate: losses on held-out rows.
        quality: metrics of drawn images.
    """

    validate: Validate | None
    quality: Validate | None

    def reporting(self, run: Run, state: TrainState, world: World, reports: Slot, *, resumed: bool) -> "Measures":
        """Return the measurements of a trial; those with the metric of the sweep send a report.

        Args:
            reports: the trial's mailbox.
            resumed: True if the state is from a checkpoint. The trial process may have died with its report of that
                step, which is measured again.
        """
        by_quality = reports.metric in run.config.validation.quality_names
        plain = self.quality if by_quality else self.validate
        if plain is None:
            return self
        told = report_measurement(plain, state, world, reports, run.steps)
        every = run.config.validation.interval_of(reports.metric)
        if resumed and is_due(state.step, every, state.step == run.steps):
            measure_average(state, told)
        return replace(self, quality=told) if by_quality else replace(self, validate=told)


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
            told = {**before, **metrics}
            reports.send({"step": state.step, "images": state.num_images, "metrics": told, "last": last})
        return metrics

    return measure_and_report
