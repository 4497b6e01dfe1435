"""Sweeps with a formula as error, run in this process."""

import math

from raysde.tuning.training.asha import Halving
from raysde.tuning.training.ledger import Ledger, Report, Trial
from raysde.tuning.training.search import (
    plan_trials,
)
from raysde.tuning.training.space import read_space
from raysde.tuning.training.sweep import DEFAULT_METRIC, Sweep

DIGITS = "digits"

SPACE = {"sde.kind": ["vp", "ve"], "train.lr": [1e-3, 1e-2, 1e-1]}


def curve(values: dict, images: int) -> float:
    """Return an error that falls with the images seen, to a floor that depends on the varied values."""
    floor = abs(math.log10(values["train.lr"]) + 2.0) + (0.3 if values["sde.kind"] == "ve" else 0.0)
    return floor + 30.0 / images + 0.01 * math.sin(images * (1.0 + floor))


class Killed(Exception):
    """Error that stands for the death of the driver."""


def run_sweep(folder, *, at: int | None = None, search="random", halving=True, metric=DEFAULT_METRIC) -> Sweep:
    """Train trials one after the other; kill the driver at event number ``at``, where each report and each end is an
    event.

    A resumed trial starts from its last checkpoint, two reports back, so it reports some steps again.
    """
    space, events = read_space(SPACE), 0
    plan = plan_trials(space, search, 0, 6)
    early = Halving(8, 2, 128) if halving else None
    sweep = Sweep(space, Ledger(str(folder), {"space": SPACE}), count=6, seed=0, metric=metric, plan=plan, halving=early)  # fmt: skip
    while trial := sweep.next():
        known = len(trial.reports)
        for step in range(4 * max(0, known - 2) + 4, 65, 4):
            if at is not None and events >= at:
                raise Killed
            events += 1
            if sweep.report(
                trial.number, step, 2 * step, {DEFAULT_METRIC: curve(trial.values, 2 * step), "val/other": 0.5}
            ):
                break
        else:
            if at is not None and events >= at:
                raise Killed
            sweep.end(trial.number, "finished")
    return sweep


def summary(sweep: Sweep) -> list:
    return [(trial.number, trial.values, trial.state, trial.reports) for trial in sweep.trials]


def trials_of(*given) -> list[Trial]:
    """Return trials from (state, value, images) tuples."""
    space = read_space(SPACE)
    return [
        Trial(number, space.combination(number), "", state, "out of memory" if state == "failed" else "", 1.0,
              [] if value is None else [Report(number, images // 2, images, {"m": value, "m_snr_-8_to_-5": 2.0})])
        for number, (state, value, images) in enumerate(given)
    ]  # fmt: skip
