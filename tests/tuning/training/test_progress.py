"""The progress line of a sweep."""

import io

from raysde.tuning.training.ledger import Ledger
from raysde.tuning.training.progress import SweepLine
from raysde.tuning.training.ranking import best_trial
from raysde.tuning.training.search import (
    plan_trials,
)
from raysde.tuning.training.space import read_space
from raysde.tuning.training.sweep import DEFAULT_METRIC, Sweep
from tests.support.sweeps import run_sweep


def test_the_line_counts_trials_and_names_the_best(tmp_path):
    sweep, out = run_sweep(tmp_path), io.StringIO()
    line = SweepLine(sweep, 2, out=out)
    line.close()
    states = [trial.state for trial in sweep.trials]
    assert (
        f"sweep 6/6 trials ({states.count('finished')} finished, {states.count('stopped')} stopped, 0 running)"
        in out.getvalue()
    )
    assert f"by trial {best_trial(sweep.trials, DEFAULT_METRIC).number:03d}" in out.getvalue()


def test_the_line_tells_the_time_that_is_left(tmp_path):
    """Three of ten trials ended in 70 s while one ran, which counts as half: 20 s each, so the other 5.5 take 110 s."""
    space = read_space({"train.lr": "log(1e-4,1e-1)"})
    plan = plan_trials(space, "random", 0, 10)
    sweep = Sweep(space, Ledger(str(tmp_path), {}), count=10, seed=0, metric="m", plan=plan, halving=None)
    sweep.report(sweep.next().number, 1, 8, {"m": 0.25})
    assert "best" not in SweepLine(sweep, 1, out=io.StringIO()).text()  # nothing has ended
    sweep.end(0, "finished")
    line = SweepLine(sweep, 1, out=io.StringIO())
    assert line.text().endswith("? left")
    for number in (1, 2, 3):
        sweep.report(sweep.next().number, 1, 8, {"m": 0.5 + number})
        sweep.end(number, "failed" if number == 3 else "finished")
    sweep.report(sweep.next().number, 1, 8, {"m": 0.0})  # running, so not yet the best
    line.begun -= 70.0
    assert line.text().startswith(
        "sweep 4/10 trials (3 finished, 1 failed, 1 running)  best 0.2500 by trial 000: train.lr="
    )
    assert line.text().endswith("1m50s left")
