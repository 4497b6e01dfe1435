"""The ranking of trials, its table, and the best recipe."""

import csv
import io
import math

import pytest

from raysde.config import loading
from raysde.tuning.training import plots
from raysde.tuning.training.asha import Halving
from raysde.tuning.training.ledger import Ledger, Report, Trial
from raysde.tuning.training.ranking import best_recipe, best_trial, format_csv, format_ranking, rank_trials
from raysde.tuning.training.search import (
    plan_trials,
)
from raysde.tuning.training.space import read_space, vary_recipe
from raysde.tuning.training.sweep import Sweep
from tests.support.sweeps import DIGITS, SPACE, trials_of

# the ranking


def test_whole_trials_rank_by_value_and_before_those_that_were_stopped():
    trials = trials_of(
        ("stopped", 0.1, 32), ("finished", 0.5, 128), ("failed", None, 0), ("finished", 0.4, 128), ("stopped", 0.2, 64), ("finished", math.nan, 128)
    )  # fmt: skip
    assert [trial.number for trial in rank_trials(trials, "m")] == [3, 1, 5, 4, 0, 2]
    assert best_trial(trials, "m").number == 3
    assert best_trial(trials_of(("failed", 0.1, 8), ("finished", math.inf, 8)), "m") is None


def test_equal_trials_rank_by_number_and_stopped_ones_by_what_they_saw():
    trials = trials_of(
        ("stopped", 0.3, 64), ("finished", 0.5, 128), ("stopped", 0.2, 64), ("stopped", 0.1, 32), ("running", 0.0, 256),
        ("finished", 0.5, 64), ("stopped", 0.2, 64), ("failed", 0.0, 256),
    )  # fmt: skip
    assert [trial.number for trial in rank_trials(list(reversed(trials)), "m")] == [1, 5, 2, 6, 0, 3, 4, 7]


def test_more_than_ten_trials_are_in_the_order_of_their_numbers(tmp_path):
    """Trials are sorted by number on disk, in the resumed sweep and in the ranking."""
    space, count = read_space({"train.lr": "log(1e-4,1e-1)"}), 13
    plan = plan_trials(space, "random", 0, count)
    sweep = Sweep(space, Ledger(str(tmp_path), {}), count=count, seed=0, metric="m", plan=plan, halving=None)
    for number in reversed([sweep.next().number for _ in range(count)]):
        sweep.report(number, 1, 8, {"m": 1.0})
    again = Sweep(space, Ledger(str(tmp_path), {}), count=count, seed=0, metric="m", plan=plan, halving=None)
    assert [trial.values for trial in again.trials] == plan
    assert [trial.number for trial, _ in again.ledger.reports] == list(reversed(range(count)))
    assert [again.next().number for _ in range(count)] == list(range(count))
    for number in range(count):
        again.report(number, 2, 16, {"m": 1.0})
        again.end(number, "finished")
    assert [report.order for _, report in again.ledger.reports] == list(range(2 * count))
    assert [trial.number for trial in rank_trials(again.trials, "m")] == list(range(count))


@pytest.mark.parametrize(("values", "expected"), [((0.0, 0.1), 0), ((-1.0, 0.0), 0), ((math.nan, 0.0), 1)])
def test_zero_is_a_value_like_any_other(values, expected):
    """A metric of 0 wins if nothing is lower, and is plotted."""
    trials = trials_of(*(("finished", value, 128) for value in values))
    assert best_trial(trials, "m").number == expected
    assert plots.draw_plots(trials[expected : expected + 1], read_space(SPACE), "m")


def test_a_trial_that_was_stopped_is_the_best_where_no_whole_one_has_a_value():
    trials = trials_of(("finished", math.nan, 128), ("stopped", 0.4, 64), ("stopped", 0.3, 64), ("failed", 0.1, 64))
    assert best_trial(trials, "m").number == 2


def test_the_table_lists_failures_with_their_errors():
    lines = format_ranking(trials_of(("finished", 0.5, 128), ("failed", None, 0)), read_space(SPACE), "m").splitlines()
    assert lines[0].split() == ["rank", "trial", "sde.kind", "train.lr", "m", "step", "images", "state", "seconds"]
    assert lines[1].split() == ["1", "000", "vp", "0.001", "0.50000", "64", "128", "finished", "1"]
    assert lines[2].split()[:2] == ["-", "001"]
    assert lines[3] == "trial 001 failed: out of memory"


def test_the_csv_has_every_metric_in_full():
    trials = trials_of(("finished", 0.1234567890123, 128), ("failed", None, 0))
    found = list(csv.DictReader(io.StringIO(format_csv(trials, read_space(SPACE), "m"))))
    assert float(found[0]["m"]) == 0.1234567890123
    assert float(found[0]["m_snr_-8_to_-5"]) == 2.0
    assert (found[0]["sde.kind"], float(found[0]["train.lr"])) == ("vp", 1e-3)
    assert (found[1]["m"], found[1]["error"]) == ("", "out of memory")


def test_the_best_recipe_trains_what_the_trial_trained(tmp_path, monkeypatch):
    """Read from another folder, it is the trial's recipe except for its name."""
    monkeypatch.chdir(tmp_path)
    space = read_space({"sde": [{"kind": "ve", "sigma_max": 20}], "train.lr": [3e-5]})
    trial = Trial(0, space.combination(0), reports=[Report(0, 1, 2, {"m": 0.5})])
    tree = {**loading.read_mapping(DIGITS, "recipe"), "storage": "runs", "data": {"path": "shards"}}
    (tmp_path / "best.yaml").write_text(best_recipe(tree, space, trial, "won", "m"))
    monkeypatch.chdir("/")
    again, expected = (
        loading.load_recipe(tmp_path / "best.yaml"),
        loading.parse_recipe(vary_recipe(tree, space, trial.values)),
    )
    differ = {key for key, value in again.flat().items() if expected.flat()[key] != value}
    assert differ == {"name", "storage", "data.path"}
    assert (again.name, again.storage, again.data.path) == ("won", f"{tmp_path}/runs", f"{tmp_path}/shards")
    assert (again.sde.sigma_max, again.train.lr) == (20.0, 3e-5)


def test_higher_is_better_where_that_is_known(tmp_path):
    """Trials rank by val/accuracy from high to low, by val/kid from low to high; early stopping ends the worse one."""
    trials = [
        Trial(number, {}, state="finished", reports=[Report(number, 5, 50, {"val/accuracy": value, "val/kid": value})])
        for number, value in enumerate((0.5, 0.9, math.nan, 0.7))
    ]
    assert [trial.number for trial in rank_trials(trials, "val/accuracy")] == [1, 3, 0, 2]
    assert [trial.number for trial in rank_trials(trials, "val/kid")] == [0, 3, 1, 2]
    assert best_trial(trials, "val/accuracy").number == 1
    for metric, survivor in (("val/accuracy", 1), ("val/kid", 0)):
        space, folder = read_space({"train.lr": [1e-3, 1e-2]}), str(tmp_path / metric.replace("/", "-"))
        sweep = Sweep(space, Ledger(folder, {}), count=2, seed=0, metric=metric,
                      plan=[{"train.lr": 1e-3}, {"train.lr": 1e-2}], halving=Halving(10.0, 2.0, 100.0))  # fmt: skip
        first, second = sweep.next(), sweep.next()
        for trial, value in ((first, 0.5), (second, 0.9)):
            sweep.report(trial.number, 1, 10, {metric: value})
        states = [trial.state for trial in sweep.trials]
        # the first to reach a rung goes on; the second is stopped if it is the worse one
        assert states == (["running", "running"] if survivor == 1 else ["running", "stopped"])
