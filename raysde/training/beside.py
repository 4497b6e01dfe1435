"""Measurements of checkpoints beside training: a result comes later, and decisions use it at a fixed later step.

A measurement is open from its step until the decision step, ``delay`` steps later, or the end of the run. There the
loop waits for it. Decisions therefore depend on steps alone, never on the time that a measurement takes. Checkpoints
list the open measurements, so that a resumed run makes those without a recorded result again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from raysde.distributed.world import World
from raysde.training.measuring import count_measurement

if TYPE_CHECKING:
    from raysde.training.loop import Hooks, Schedule
    from raysde.training.state import TrainState

KEY = "beside"
"""Key of the open measurements in the values of a training state."""


class Beside(Protocol):
    """Measurements of checkpoints that run while training goes on; every rank calls all methods, at the same step."""

    def submit(self, step: int) -> None:
        """Begin to measure the checkpoint of a step once it is written; an earlier measurement of it is forgotten."""

    def collect(self, step: int) -> dict[str, float]:
        """Wait for the metrics of the checkpoint of a step, and return them, equal on all ranks.

        A measurement that was not submitted by this process is made now, unless the checkpoint has its metrics.
        """

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write metrics into the checkpoint of a step, by which it is then ranked."""

    def finish(self, step: int, values: Mapping[str, Any]) -> None:
        """Write the results of all open measurements into the checkpoint of the run's last step.

        Args:
            step: the run's last step.
            values: see :meth:`OpenMeasurements.values`.
        """


@dataclass(frozen=True)
class Measurement:
    """A measurement beside training.

    Attributes:
        images: number of images that the model had been trained on.
        metrics: its result, None for a value that is not finite; None before the result is recorded.
    """

    images: int
    metrics: dict[str, float | None] | None = None

    @property
    def values(self) -> dict[str, float]:
        """The result with nan in place of None."""
        assert self.metrics is not None, "the measurement has a result"
        return {name: math.nan if value is None else value for name, value in self.metrics.items()}

    def with_result(self, metrics: Mapping[str, float]) -> Measurement:
        """Return the measurement with its result."""
        return replace(self, metrics=storable(metrics))


def storable(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Return metrics with None in place of values that are not finite, which JSON lacks."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


@dataclass
class OpenMeasurements:
    """The measurements of a run that decisions have not used yet, and the last one that they have used, by step."""

    open: dict[int, Measurement] = field(default_factory=dict)
    used: dict[int, Measurement] = field(default_factory=dict)

    @property
    def waits(self) -> bool:
        """True if an open measurement has no result."""
        return any(each.metrics is None for each in self.open.values())

    def values(self) -> dict[str, Any]:
        """Return the measurements as JSON values; empty if there are none."""
        found = {"open": self.open, "used": self.used}
        return {
            name: {str(step): {"images": each.images, "metrics": each.metrics} for step, each in content.items()}
            for name, content in found.items()
            if content
        }

    @staticmethod
    def from_values(values: Mapping[str, Any] | None) -> OpenMeasurements:
        """Return the measurements in the result of :meth:`values`; none for None."""
        content = values or {}
        return OpenMeasurements(
            *(
                {int(step): Measurement(**each) for step, each in content.get(name, {}).items()}
                for name in ("open", "used")
            )
        )


def open_steps(values: Mapping[str, Any]) -> set[int]:
    """Return the steps of measurements without a result in the values of a training state."""
    known = OpenMeasurements.from_values(values.get(KEY)).open
    return {step for step, each in known.items() if each.metrics is None}


def begin_measurement(state: TrainState) -> None:
    """Note that the checkpoint of the state's step, which is written next, is measured beside training."""
    state.beside.open[state.step] = Measurement(state.num_images)


def resume_measurements(state: TrainState, beside: Beside) -> None:
    """Begin the open measurements of a resumed run again."""
    for step, each in sorted(state.beside.open.items()):
        if each.metrics is None:
            beside.submit(step)


def use_due_measurements(state: TrainState, schedule: Schedule, hooks: Hooks, world: World, beside: Beside) -> None:
    """Wait for the measurements whose decision step is reached, log them, and stop the run if patience is exhausted.

    A measurement is logged under its own step. Early stopping counts those of the interval ``quality_every`` alone.
    """
    for step in sorted(step for step in state.beside.open if step + schedule.delay <= state.step):
        found = _take_result(state, step, hooks, world, beside)
        del state.beside.open[step]
        state.beside.used = {step: found}
        if step % schedule.quality_every == 0:
            count_measurement(state, schedule.patience, world, schedule.ranking, found.values)


def wait_for_all(state: TrainState, hooks: Hooks, world: World, beside: Beside) -> None:
    """Wait for all open measurements at the end of a run, log them, and rank their checkpoints.

    They stay open with their results: if the run becomes longer, its decisions use them at their steps.
    """
    for step in sorted(state.beside.open):
        state.beside.open[step] = _take_result(state, step, hooks, world, beside)
    beside.finish(state.step, state.beside.values())


def _take_result(state: TrainState, step: int, hooks: Hooks, world: World, beside: Beside) -> Measurement:
    """Return an open measurement with its result, which is logged, and recorded in the step's checkpoint."""
    known = state.beside.open[step]
    if known.metrics is None:
        found = beside.collect(step)
        beside.record(step, found)
        known = known.with_result(found)
    if world.is_first:
        hooks.log(step, known.values)
    return known
