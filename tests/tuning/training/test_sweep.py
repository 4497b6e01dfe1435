"""The course of a sweep, and a ledger that survives kills."""

import json

import pytest

from raysde.tuning.training.asha import Halving
from raysde.tuning.training.ledger import Ledger
from raysde.tuning.training.ranking import best_trial
from raysde.tuning.training.search import (
    plan_trials,
)
from raysde.tuning.training.space import read_space
from raysde.tuning.training.sweep import Sweep
from tests.support.sweeps import SPACE, Killed, run_sweep, summary

# the course of a sweep


@pytest.mark.parametrize("halving", [True, False])
def test_a_sweep_killed_anywhere_ends_as_if_it_never_was(tmp_path, halving):
    """Every report comes once and in the same order, with the same stops and the same table."""
    whole = run_sweep(tmp_path / "whole", halving=halving)
    assert {trial.state for trial in whole.trials} == ({"finished", "stopped"} if halving else {"finished"})
    events = sum(len(trial.reports) for trial in whole.trials)
    for at in range(1, events, 5 if halving else 17):
        with pytest.raises(Killed):
            run_sweep(tmp_path / f"{at}", at=at, halving=halving)
        again = run_sweep(tmp_path / f"{at}", halving=halving)
        assert summary(again) == summary(whole)
        assert not again.left


def test_a_restart_judges_reports_in_their_order(tmp_path):
    """Trial 1 passed its rung before the better trial 0 arrived there, and still continues after a restart."""
    space = read_space(SPACE)

    def opened() -> Sweep:
        plan, early = plan_trials(space, "grid", 0, 2), Halving(8, 2, 128)
        return Sweep(space, Ledger(str(tmp_path), {}), count=2, seed=0, metric="m", plan=plan, halving=early)

    sweep = opened()
    assert [sweep.next().number, sweep.next().number] == [0, 1]
    assert not sweep.report(1, 4, 8, {"m": 2.0})
    assert not sweep.report(0, 4, 8, {"m": 1.0})
    again = opened()
    assert [trial.state for trial in again.trials] == ["running", "running"]
    assert [again.next().number, again.next().number] == [0, 1]
    assert again.halving.rungs == sweep.halving.rungs


def test_ended_trials_are_not_run_again(tmp_path):
    run_sweep(tmp_path)
    sweep = run_sweep(tmp_path, at=0)
    assert sweep.next() is None


def test_a_sweep_grows_when_more_trials_are_wanted(tmp_path):
    space = read_space(SPACE)
    plan, ledger = plan_trials(space, "random", 0, 6), str(tmp_path)
    for count in (2, 5):
        sweep = Sweep(space, Ledger(ledger, {}), count=count, seed=0, metric="m", plan=plan, halving=None)
        begun = []
        while trial := sweep.next():
            begun.append(trial.number)
            sweep.end(trial.number, "failed", "no")
        assert begun == ([0, 1] if count == 2 else [2, 3, 4])


def test_a_trial_whose_file_is_removed_is_tried_again(tmp_path):
    whole = run_sweep(tmp_path, halving=False)
    (tmp_path / "ledger" / "trial-00002.json").unlink()
    again = run_sweep(tmp_path, halving=False)
    assert [(trial.number, trial.values, trial.state) for trial in again.trials] == [
        (trial.number, trial.values, trial.state) for trial in whole.trials
    ]


def test_a_failed_trial_whose_state_is_set_to_running_is_tried_again(tmp_path):
    """It keeps its values and its reports, also if the search would now choose other values."""
    space = read_space({"train.lr": "log(1e-4,1e-1)"})

    def opened() -> Sweep:
        early = Halving(8, 2, 128)
        return Sweep(space, Ledger(str(tmp_path), {}), count=3, seed=0, metric="m", plan=None, halving=early)

    sweep = opened()
    for number in range(3):
        assert sweep.next().number == number
        assert not sweep.report(number, 4, 8, {"m": 1.0 - 0.1 * number})
        sweep.end(number, "failed" if number == 0 else "finished", "out of memory" if number == 0 else "")
    assert opened().next() is None
    file = tmp_path / "ledger" / "trial-00000.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "state": "running"}))
    again = opened()
    trial = again.next()
    assert (trial.number, trial.values, trial.reports) == (0, sweep.trials[0].values, sweep.trials[0].reports)
    assert not again.report(0, 8, 16, {"m": 0.5})
    again.end(0, "finished")
    assert [(trial.state, trial.error) for trial in opened().trials] == [("finished", "")] * 3


def test_a_trial_is_not_stopped_at_its_own_end(tmp_path):
    """A shorter trial that ends at a rung counts there and is finished, also if the driver died before the report
    reached it."""
    space = read_space(SPACE)

    def opened() -> Sweep:
        plan, early = plan_trials(space, "grid", 0, 3), Halving(8, 2, 128)
        return Sweep(space, Ledger(str(tmp_path), {}), count=3, seed=0, metric="m", plan=plan, halving=early)

    sweep = opened()
    assert [sweep.next().number for _ in range(3)] == [0, 1, 2]
    assert not sweep.report(0, 4, 8, {"m": 1.0})
    assert not sweep.report(1, 8, 8, {"m": 3.0}, last=True)
    assert not sweep.report(2, 4, 8, {"m": 1.9})  # not above 2, the median of the two
    again = opened()
    assert [trial.state for trial in again.trials] == ["running"] * 3
    again.end(1, "finished")
    assert opened().trials[1].state == "finished"


def test_a_ledger_that_does_not_say_whether_a_report_was_the_last(tmp_path):
    whole = run_sweep(tmp_path)
    for file in (tmp_path / "ledger").glob("trial-*.json"):
        content = json.loads(file.read_text())
        for report in content["reports"]:
            del report["last"]
        file.write_text(json.dumps(content))
    assert summary(run_sweep(tmp_path, at=0)) == summary(whole)


def test_the_first_end_counts(tmp_path):
    sweep = Sweep(read_space(SPACE), Ledger(str(tmp_path), {}), count=1, seed=0, metric="m", plan=plan_trials(read_space(SPACE), "grid", 0, 1), halving=None)  # fmt: skip
    trial = sweep.next()
    sweep.end(trial.number, "failed", "it diverged")
    sweep.end(trial.number, "finished")
    assert (trial.state, trial.error) == ("failed", "it diverged")
    assert sweep.report(trial.number, 1, 2, {"m": 1.0})
    assert trial.reports == []


def test_a_metric_that_nobody_reports_is_refused_at_the_first_report(tmp_path):
    with pytest.raises(ValueError, match=r"'val/fid'; there are val/denoising, val/other"):
        run_sweep(tmp_path, metric="val/fid")
    assert Ledger(str(tmp_path), {"space": SPACE}).trials[0].reports == []


def test_another_metric_ranks_what_was_reported(tmp_path):
    run_sweep(tmp_path)
    assert best_trial(run_sweep(tmp_path, metric="val/other").trials, "val/other").value("val/other") == 0.5
    with pytest.raises(ValueError, match="val/fid"):
        run_sweep(tmp_path, metric="val/fid")


def test_what_a_sweep_was_started_with_must_not_change(tmp_path):
    Ledger(str(tmp_path), {"recipe": {"train.lr": 1.0, "a": None}, "seed": 0})
    Ledger(str(tmp_path), {"recipe": {"train.lr": 1.0, "a": None}, "seed": 0})
    with pytest.raises(ValueError, match=r"recipe train\.lr=1\.0, now it is 2\.0.*another --name"):
        Ledger(str(tmp_path), {"recipe": {"train.lr": 2.0, "a": None}, "seed": 0})
    with pytest.raises(ValueError, match=r"seed=0, now it is 1"):
        Ledger(str(tmp_path), {"recipe": {"train.lr": 1.0, "a": None}, "seed": 1})


def test_a_sweep_from_before_there_was_a_key_had_its_default(tmp_path):
    """The sweep resumes as a run does, also if the default is null; a key with another value in the recipe is named."""
    Ledger(str(tmp_path), {"recipe": {"train.lr": 1.0}})
    default = {"train.clip": 1.0, "text": None}.get
    Ledger(str(tmp_path), {"recipe": {"train.lr": 1.0, "train.clip": 1.0, "text": None}}, default)
    with pytest.raises(ValueError, match=r"recipe train\.clip=1\.0, now it is 2\.0"):
        Ledger(str(tmp_path), {"recipe": {"train.lr": 1.0, "train.clip": 2.0}}, default)
    with pytest.raises(ValueError, match=r"recipe train\.lr=1\.0, now it is null"):
        Ledger(str(tmp_path), {"recipe": {"train.clip": 1.0}}, default)


@pytest.mark.parametrize("content", ["{", "[]", '{"number": 0}', '{"number": 0, "values": {}, "reports": [], "x": 1}'])
def test_a_damaged_ledger_is_named(tmp_path, content):
    run_sweep(tmp_path)
    (tmp_path / "ledger" / "trial-00002.json").write_text(content)
    with pytest.raises(ValueError, match=r"trial-00002\.json is damaged"):
        Ledger(str(tmp_path), {"space": SPACE})
