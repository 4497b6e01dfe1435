"""The course of a sweep: choice of the next trial, its reports, and its end.

It imports neither Ray nor MLflow. After a kill, a new sweep on the same ledger resumes: ended trials are kept, running
ones come first, and early stopping replays all reports in their order.
"""

import itertools
import time
from collections.abc import Mapping, Sequence
from typing import Any

from raysde.tuning.training.asha import Halving
from raysde.tuning.training.direction import rank_by
from raysde.tuning.training.ledger import Ledger, Report, State, Trial
from raysde.tuning.training.search import suggest_trial
from raysde.tuning.training.space import Space, Values

DEFAULT_METRIC = "val/denoising"
"""Metric of the ranking: the denoising error on held-out rows, at log-SNRs that are the same under every SDE."""


class Sweep:
    """A running sweep.

    Args:
        count: number of trials.
        plan: values of each trial; None if Optuna chooses them.
        halving: early stopping; None for none.
        metric: name of the metric; lower is better, or higher if that is known of its name.

    Raises:
        ValueError: if earlier trials did not report the metric.
    """

    def __init__(
        self,
        space: Space,
        ledger: Ledger,
        *,
        count: int,
        seed: int,
        metric: str,
        plan: Sequence[Values] | None,
        halving: Halving | None,
    ) -> None:
        self.space, self.ledger, self.count, self.seed, self.metric = space, ledger, count, seed, metric
        self.plan, self.halving = plan, halving
        self.begun: dict[int, float] = {}
        self.reported = 1 + max((report.order for _, report in ledger.reports), default=-1)
        self._replay()
        self.waiting = [trial for trial in self.trials if trial.state == "running"]

    @property
    def trials(self) -> list[Trial]:
        """All trials that have begun, by number."""
        return [self.ledger.trials[number] for number in sorted(self.ledger.trials)]

    @property
    def left(self) -> int:
        """The number of trials still to start or to resume."""
        return len(self.waiting) + max(0, self.count - len(self.ledger.trials))

    def next(self) -> Trial | None:
        """Return the trial to run next: one that a killed sweep left running, else a new one, or None at the end."""
        if self.waiting:
            trial = self.waiting.pop(0)
        elif len(self.ledger.trials) < self.count:
            number = next(number for number in itertools.count() if number not in self.ledger.trials)
            trial = Trial(number, self._values(number))
            self.ledger.keep(trial)
        else:
            return None
        self.begun[trial.number] = time.monotonic()
        return trial

    def note_run(self, number: int, run_id: str) -> None:
        """Record the id of the MLflow run of trial ``number``, counted from 0."""
        trial = self.ledger.trials[number]
        trial.run_id = run_id
        self.ledger.keep(trial)

    def report(self, number: int, step: int, images: int, metrics: Mapping[str, float], last: bool = False) -> bool:
        """Record a trial's metrics at a step and return True if it must stop; a step that is known has no effect.

        Args:
            number: number of the trial, from 0.
            step: optimizer steps that it has taken.
            images: images that it has trained on.
            metrics: validation metrics by name.
            last: True if the step is the trial's last, after which nothing is left to stop.

        Raises:
            ValueError: naming the reported metrics, if the metric of the sweep is not among them.
        """
        trial = self.ledger.trials[number]
        if trial.state != "running" or (trial.last is not None and step <= trial.last.step):
            return trial.state != "running"
        self._value(metrics)  # raises before the report is kept
        report = Report(self.reported, step, images, dict(metrics), last)
        trial.reports.append(report)
        self.reported += 1
        if self._falls_behind(number, report):
            self.end(number, "stopped")
        else:
            self.ledger.keep(trial)
        return trial.state != "running"

    def end(self, number: int, state: State, error: str = "") -> None:
        """Record the state in which a trial ended; only the first call counts.

        Args:
            number: number of the trial, from 0.
            error: message of a trial that failed.
        """
        trial = self.ledger.trials[number]
        if trial.state != "running":
            return
        trial.state, trial.error = state, error
        trial.seconds = round(time.monotonic() - self.begun.get(number, time.monotonic()), 1)
        self.ledger.keep(trial)

    def _values(self, number: int) -> Values:
        if self.plan is not None:
            return self.plan[number]
        return suggest_trial(self.space, self.seed, number, self.trials, self.metric)

    def _value(self, metrics: Mapping[str, Any]) -> float:
        """Return the metric with a sign such that lower is better."""
        if self.metric not in metrics:
            names = ", ".join(sorted(metrics)) or "none"
            raise ValueError(f"no trial reports the metric {self.metric!r}; there are {names}")
        return rank_by(self.metric).cost(metrics)

    def _replay(self) -> None:
        for trial, report in self.ledger.reports:
            # a stricter scheduler than before may stop a trial at an old report
            if self._falls_behind(trial.number, report):
                self.end(trial.number, "stopped")

    def _falls_behind(self, number: int, report: Report) -> bool:
        """Return True if a report stops its trial; a last report only counts for the other trials."""
        value = self._value(report.metrics)
        return self.halving is not None and self.halving.stops(number, report.images, value) and not report.last
