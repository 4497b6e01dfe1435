"""The trials of a sweep on disk: one JSON file a trial, replaced atomically at every change.

STORAGE/NAME/sweep.json             definition of the sweep
STORAGE/NAME/ledger/trial-003.json  a trial: its values, its reports (numbered over all trials), its state

Everything else (trials left, early stopping, input of the search) follows from it. It replaces Ray Tune's own restore,
which reads pickles and does not know the space of a sweep.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from raysde.config.places import resolve_place
from raysde.io.filesystems import child_path, exists
from raysde.io.journal import Journal, read_record
from raysde.tuning.training.space import Values

FILE = "sweep.json"
VERSION = "data.version"
"""Key of the recipe that is not compared, since the fingerprint of the data says more."""
State = Literal["running", "finished", "stopped", "failed"]


@dataclass(frozen=True)
class Report:
    """A trial's metrics at one validation.

    Attributes:
        step, images: optimizer steps and images that the trial had been trained on.
        order: index among all reports of the sweep.
        last: True if the trial was at its end.
    """

    order: int
    step: int
    images: int
    metrics: dict[str, float]
    last: bool = False


@dataclass
class Trial:
    """A trial: its values, its reports and its state.

    Attributes:
        number: number in the sweep, from 0.
        error: message of a failed trial, otherwise empty.
        run_id: its MLflow run, empty before it has one.
        state: running also if the sweep was killed during the trial.
        seconds: duration in seconds; of a resumed trial, since its resume.
    """

    number: int
    values: Values
    run_id: str = ""
    state: State = "running"
    error: str = ""
    seconds: float = 0.0
    reports: list[Report] = field(default_factory=list)

    @property
    def last(self) -> Report | None:
        """The newest report."""
        return self.reports[-1] if self.reports else None

    def value(self, metric: str) -> float | None:
        """Return the newest value of a metric, or None."""
        return None if self.last is None else self.last.metrics.get(metric)


class Ledger:
    """The trials of one sweep.

    Args:
        folder: folder of the sweep, local or a URI.
        definition: JSON values that must not change when the sweep resumes.
        default: function from a key to its default, for a sweep that is older than the key.

    Raises:
        ValueError: naming the difference from the sweep in the folder, or a file that is damaged.
    """

    def __init__(
        self, folder: str, definition: Mapping[str, Any], default: Callable[[str], Any] = lambda key: None
    ) -> None:
        self.folder = folder
        self.journal = Journal(child_path(folder, FILE), child_path(folder, "ledger"), "trial-{:05d}.json")
        self.journal.begin(definition, lambda before, now: _describe_difference(folder, before, now, default))
        self.trials = {number: self._trial(number, content) for number, content in self.journal.records()}

    def _trial(self, number: int, content: Any) -> Trial:
        try:
            return Trial(**{**content, "reports": [Report(**report) for report in content["reports"]]})
        except (TypeError, KeyError) as error:
            raise ValueError(f"{self.journal.place(number)} is damaged: {error}") from None

    def keep(self, trial: Trial) -> None:
        """Write a trial's file."""
        self.trials[trial.number] = trial
        self.journal.keep(trial.number, asdict(trial))

    @property
    def reports(self) -> list[tuple[Trial, Report]]:
        """All reports with their trials, in the order in which they came."""
        every = [(trial, report) for trial in self.trials.values() for report in trial.reports]
        return sorted(every, key=lambda each: each[1].order)


def read_definition(folder: str) -> dict[str, Any]:
    """Return the definition of the sweep in a folder; empty if there is none.

    Raises:
        ValueError: if it is damaged.
    """
    place = child_path(folder, FILE)
    return dict(read_record(place)) if exists(place) else {}


def _describe_difference(
    folder: str, before: Mapping[str, Any], now: Mapping[str, Any], default: Callable[[str], Any]
) -> str | None:
    for part in sorted(set(before) | set(now)):
        old, new = before.get(part), now.get(part)
        pairs = [(part, old, new)]
        if isinstance(old, dict) and isinstance(new, dict):
            keys = [key for key in dict.fromkeys([*old, *new]) if key != VERSION]
            pairs = [(f"{part} {key}", old[key] if key in old else default(key), new.get(key)) for key in keys]
        for where, was, wanted in pairs:
            if resolve_place(where.removeprefix("recipe "), was) != resolve_place(
                where.removeprefix("recipe "), wanted
            ):
                return (
                    f"the sweep in {folder} was started with {where}={json.dumps(was)}, now it is "
                    f"{json.dumps(wanted)}; choose another --name to start anew"
                )
    return None
