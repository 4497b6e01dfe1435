"""Sweeps without Ray: spaces, searches, early stopping, a ledger that survives kills, and the ranking."""

import csv
import io
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from raysde.cli import main
from raysde.config import loading
from raysde.tuning.training import plots
from raysde.tuning.training.asha import Halving
from raysde.tuning.training.ledger import Ledger, Report, Trial
from raysde.tuning.training.progress import SweepLine
from raysde.tuning.training.ranking import as_csv, best, best_recipe, ranked, table
from raysde.tuning.training.search import (
    _distribution,
    _told,
    count_of,
    drawn,
    planned,
    suggested,
)
from raysde.tuning.training.settings import base_tree, halving_for, read_settings
from raysde.tuning.training.space import Range, check_recipes, read_space, shown, varied
from raysde.tuning.training.sweep import DEFAULT_METRIC, Sweep
from tests.support.command_line import refused
from tests.support.paths import ROOT

DIGITS = ROOT / "jobs" / "configs" / "digits.yaml"
SWEEPS = sorted((ROOT / "jobs" / "sweeps").glob("*.yaml"))
TREE = {"name": "base", "data": {"path": "shards"}, "train": {"length": {"steps": 64}, "batch": 2}}
SPACE = {"sde.kind": ["vp", "ve"], "train.lr": [1e-3, 1e-2, 1e-1]}


# the space


def test_ranges_in_their_own_sense():
    """Points of a log range have equal ratios, of a uniform one equal distances; ends are included and exact."""
    lrs, decays, warmups = (read_space({"train.lr": text}).axes[0].values for text in ("log(1e-4,1e-1,4)", "uniform(0, 1, 5)", "int(1,10,4)"))  # fmt: skip
    assert lrs == (1e-4, 1e-3, 1e-2, 1e-1)
    assert decays == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert warmups == (1, 4, 7, 10)
    assert all(isinstance(value, int) for value in warmups)


@pytest.mark.parametrize(("text", "transform"), [("log(1e-5, 1e-1)", np.log), ("uniform(0.1, 0.9)", np.asarray)])
def test_draws_are_uniform_in_their_own_sense(text, transform):
    space = read_space({"train.lr": text})
    values = transform([drawn(space, 0, number)["train.lr"] for number in range(2000)])
    low, high = (float(transform(end)) for end in (space.axes[0].values.low, space.axes[0].values.high))
    places = (values - low) / (high - low)
    assert places.min() >= 0.0
    assert places.max() < 1.0
    assert abs(places.mean() - 0.5) < 4 * math.sqrt(1 / 12 / 2000)
    assert abs((places < 0.25).mean() - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 2000)


@pytest.mark.parametrize("space", ["5", "[a, b]"])
def test_a_space_that_is_no_mapping_is_named(tmp_path, capsys, space):
    (tmp_path / "sweep.yaml").write_text(f"space: {space}\n")
    assert "sweep setting space" in refused(capsys, "tune", str(DIGITS), "--sweep", str(tmp_path / "sweep.yaml"))


def test_whole_numbers_reach_both_ends():
    space = read_space({"train.warmup": "int(3, 6)"})
    values = [drawn(space, 1, number)["train.warmup"] for number in range(200)]
    assert set(values) == {3, 4, 5, 6}


def test_numbers_that_yaml_takes_for_words():
    assert read_space({"train.lr": ["1e-4", 1e-3]}).axes[0].values == (1e-4, 1e-3)


@pytest.mark.parametrize(
    ("given", "culprit"),
    [
        ({}, "empty"),
        ({"train.learning_rate": [1]}, "'train.learning_rate'"),
        ({"train.lrr": [1]}, r"'train.lrr', which no recipe has; did you mean train\.lr"),
        ({"sde.knd": ["vp"]}, r"sde\.kind"),
        ({"data.stream": ["ray", "worker"]}, "data.stream does not shape the training"),
        ({"seed": [1, 2]}, "seed also decides which rows are held out"),
        ({"validation.every": [1, 2]}, "validation is what trials are compared by"),
        ({"data": [{}]}, r"data\.path"),
        ({"latent.vae": ["a", "b"]}, "latent decides the units of errors"),
        ({"latent": [None, {"vae": "a"}]}, "latent decides the units of errors"),
        ({"tracking.uri": ["a"]}, "tracking"),
        ({"sde": [{"kind": "vp"}], "sde.kind": ["vp"]}, "'sde.kind' and 'sde', which overlap"),
        ({"train.lr": []}, "list or a range"),
        ({"train.lr": 1e-3}, "list or a range"),
        ({"train.lr": [1e-3, 1e-3]}, "a value twice"),
        ({"train.lr": "log(0, 1)"}, "0 < low < high"),
        ({"train.lr": "log(1, 0.1)"}, "low < high"),
        ({"train.lr": "normal(0, 1)"}, "uniform"),
        ({"train.lr": "log(a, b)"}, "needs numbers"),
        ({"train.lr": "log(1e-3, 1e-2, 1)"}, "at least 2 points"),
        ({"train.warmup": "int(0.5, 3)"}, "whole numbers"),
        ({"sde.kind,train.lr": [["vp"]]}, "lists of 2 values"),
        ({"sde.kind, train.lrr": [["vp", 1]]}, "train.lrr"),
    ],
)
def test_spaces_that_are_refused(given, culprit):
    with pytest.raises(ValueError, match=culprit):
        read_space(given)


def test_a_setting_that_does_not_exist_leads_to_the_one_that_was_meant(tmp_path):
    (tmp_path / "sweep.yaml").write_text("trails: 3\n")
    with pytest.raises(ValueError, match=r"sweep setting trails does not exist; did you mean trials\?"):
        read_settings(tmp_path / "sweep.yaml", [], {})


def test_a_grid_is_every_combination_once():
    space = read_space(SPACE)
    found = planned(space, "grid", 0, count_of(space, "grid", None))
    assert [(each["sde.kind"], each["train.lr"]) for each in found] == [
        (kind, lr) for kind in ("vp", "ve") for lr in (1e-3, 1e-2, 1e-1)
    ]


def test_a_random_search_of_lists_takes_nothing_twice():
    space = read_space(SPACE)
    found = planned(space, "random", 3, 6)
    assert sorted(map(json.dumps, found)) == sorted(map(json.dumps, planned(space, "grid", 0, 6)))
    assert found != planned(space, "random", 4, 6)
    assert planned(space, "random", 3, 4) == found[:4]


def test_a_trial_is_decided_by_seed_and_number():
    """More trials, or another axis beside it, change nothing of an axis."""
    one, two = (
        read_space({"train.lr": "log(1e-4,1e-2)"}),
        read_space({"sde.kind": ["vp", "ve"], "train.lr": "log(1e-4,1e-2)"}),
    )
    assert [drawn(one, 5, n)["train.lr"] for n in range(5)] == [drawn(two, 5, n)["train.lr"] for n in range(5)]
    assert planned(one, "random", 5, 9)[:5] == planned(one, "random", 5, 5)


def test_axes_are_drawn_independently():
    """A search whose axes share their numbers walks along a diagonal; the standard error of a correlation is 1/sqrt(n)."""
    space = read_space({"train.lr": "uniform(0.1,0.9)", "train.ema.half_life": "uniform(1,9)"})
    values = np.array([[drawn(space, 5, n)[axis.name] for axis in space.axes] for n in range(400)])
    assert abs(np.corrcoef(values.T)[0, 1]) < 4.0 / math.sqrt(400)


@pytest.mark.parametrize(
    ("given", "search", "trials", "culprit"),
    [
        ({"train.lr": "log(1e-4,1e-2)"}, "grid", None, "train.lr is a range"),
        ({"train.lr": "log(1e-4,1e-2)"}, "random", None, "needs --trials"),
        (SPACE, "optuna", None, "needs --trials"),
        (SPACE, "grid", 5, "6 combinations, --trials 5"),
        (SPACE, "random", 7, "6 combinations, which is less than --trials 7"),
    ],
)
def test_counts_that_do_not_fit(given, search, trials, culprit):
    with pytest.raises(ValueError, match=culprit):
        count_of(read_space(given), search, trials)


def test_whole_nodes_and_keys_that_vary_together():
    space = read_space(
        {"sde,train.weighting": [[{"kind": "ve", "sigma_max": 20}, "target"], [{"kind": "sub_vp"}, "sigma2"]]}
    )
    tree = {**TREE, "sde": {"kind": "vp", "beta_max": 10.0}}
    first, second = (loading.parse(varied(tree, space, values)) for values in planned(space, "grid", 0, 2))
    assert (first.sde.kind, first.sde.sigma_max, first.train.weighting) == ("ve", 20.0, "target")
    assert (second.sde.kind, second.sde.beta_max, second.train.weighting) == ("sub_vp", 20.0, "sigma2")
    assert tree["sde"] == {"kind": "vp", "beta_max": 10.0}


def test_a_kind_that_does_not_accept_another_key_is_named_before_anything_starts():
    space = read_space({"sde.kind": ["vp", "ve"], "sde.beta_max": [10, 20]})
    check_recipes(TREE, space, planned(space, "grid", 0, 2))
    with pytest.raises(ValueError, match=r"sde\.kind=ve, sde\.beta_max=10.*unknown key 'sde\.beta_max'"):
        check_recipes(TREE, space, planned(space, "grid", 0, 4))


def test_the_order_of_axes_does_not_matter_to_a_recipe():
    one, two = {"sde.kind": ["ve"], "sde.sigma_max": [20.0]}, {"sde.sigma_max": [20.0], "sde.kind": ["ve"]}
    for given in (one, two):
        space = read_space(given)
        assert loading.parse(varied(TREE, space, space.combination(0))).sde.sigma_max == 20.0


# early stopping


@pytest.mark.parametrize("reduction", [2, 3, 4])
def test_halving_decides_as_ray_tune_does(reduction):
    """The same stops as ASHAScheduler on random curves of 40 trials whose reports come in a random order."""
    from ray.tune.schedulers import ASHAScheduler

    rng = np.random.default_rng(reduction)
    ours = Halving(5, reduction, 200)
    theirs = ASHAScheduler(time_attr="t", metric="m", mode="min", grace_period=5, reduction_factor=reduction, max_t=200)
    alive, seen, stopped = dict.fromkeys(range(40), 0), 0, 0
    for trial in alive:
        theirs.on_trial_add(None, SimpleNamespace(trial_id=str(trial)))
    while alive:
        trial = int(rng.choice(list(alive)))
        alive[trial] += int(rng.integers(1, 9))
        if alive[trial] >= 200:
            del alive[trial]
            continue
        value = float(rng.normal(trial / 40, 0.3) - math.log(alive[trial]))
        expected = theirs.on_trial_result(None, SimpleNamespace(trial_id=str(trial)), {"t": alive[trial], "m": value})
        assert ours.stops(trial, alive[trial], value) == (expected == "STOP")
        seen += 1
        if expected == "STOP":
            stopped += 1
            del alive[trial]
    assert stopped > 10
    assert seen > 100


@pytest.mark.parametrize(("reduction", "passes"), [(2, 2.0), (4, 1.5), (3, 5 / 3)])
def test_a_rung_is_passed_by_the_best_part(reduction, passes):
    """By definition: after values 1, 2 and 3, with linear quantiles, up to 1 + 2 / reduction and no further."""
    for value, stops in ((passes, False), (passes + 1e-9, True)):
        halving = Halving(4, reduction, 64)
        for trial, known in enumerate((3.0, 2.0, 1.0)):
            halving.stops(trial, 4, known)
        assert halving.stops(9, 4, value) == stops


def test_rungs_grow_by_the_reduction_and_lie_below_the_end():
    assert [rung for rung, _ in Halving(3, 4, 200).rungs] == [192, 48, 12, 3]
    assert [rung for rung, _ in Halving(3, 4, 192).rungs] == [48, 12, 3]
    assert [rung for rung, _ in Halving(2, 1.5, 6).rungs] == [4.5, 3.0, 2]


def test_a_report_counts_at_the_highest_rung_it_has_reached():
    """Reports may jump over rungs; those below are then free for a later, worse report of nobody's."""
    halving = Halving(4, 2, 64)
    assert not halving.stops(0, 20, 5.0)
    assert [rung for rung, values in halving.rungs if 0 in values] == [16]
    assert not halving.stops(0, 20, 9.0)  # the rung below, where it is the first
    assert [rung for rung, values in halving.rungs if 0 in values] == [16, 8]


def test_what_diverged_stops_at_its_first_rung_and_counts_nowhere():
    halving = Halving(4, 2, 64)
    assert not halving.stops(0, 3, math.inf)
    assert halving.stops(0, 4, math.inf)
    assert not halving.stops(1, 4, 5.0)
    assert halving.stops(2, 4, 5.1)


def test_no_trial_is_stopped_at_its_end():
    halving = Halving(4, 2, 16)
    for trial, value in enumerate((1.0, 0.9, 0.8)):
        assert not any(halving.stops(trial, budget, value) for budget in (4, 8))
    assert not halving.stops(0, 16, 9.0)


@pytest.mark.parametrize(("grace", "reduction"), [(0, 4), (8, 1)])
def test_rungs_that_do_not_grow_are_no_endless_loop(grace, reduction):
    with pytest.raises(AssertionError):
        Halving(grace, reduction, 64)


# the course of a sweep


def curve(values: dict, images: int) -> float:
    """An error that falls with the images seen, to a floor that depends on what is varied."""
    floor = abs(math.log10(values["train.lr"]) + 2.0) + (0.3 if values["sde.kind"] == "ve" else 0.0)
    return floor + 30.0 / images + 0.01 * math.sin(images * (1.0 + floor))


class Killed(Exception):
    """The driver is gone."""


def run(folder, *, at: int | None = None, search="random", halving=True, metric=DEFAULT_METRIC) -> Sweep:
    """Trains trials one after the other, each report or end an event; killed at one of them if told so.

    A trial that goes on starts from its last checkpoint, two reports back, so some steps are reported again.
    """
    space, events = read_space(SPACE), 0
    plan = planned(space, search, 0, 6)
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


def told(sweep: Sweep) -> list:
    return [(trial.number, trial.values, trial.state, trial.reports) for trial in sweep.trials]


@pytest.mark.parametrize("halving", [True, False])
def test_a_sweep_killed_anywhere_ends_as_if_it_never_was(tmp_path, halving):
    """Every report once and in the same order, the same stops, the same table."""
    whole = run(tmp_path / "whole", halving=halving)
    assert {trial.state for trial in whole.trials} == ({"finished", "stopped"} if halving else {"finished"})
    events = sum(len(trial.reports) for trial in whole.trials)
    for at in range(1, events, 5 if halving else 17):
        with pytest.raises(Killed):
            run(tmp_path / f"{at}", at=at, halving=halving)
        again = run(tmp_path / f"{at}", halving=halving)
        assert told(again) == told(whole)
        assert not again.left


def test_a_restart_judges_reports_in_their_order(tmp_path):
    """Trial 1 passed its rung before the better trial 0 came there, and goes on after a restart too."""
    space = read_space(SPACE)

    def opened() -> Sweep:
        plan, early = planned(space, "grid", 0, 2), Halving(8, 2, 128)
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
    run(tmp_path)
    sweep = run(tmp_path, at=0)
    assert sweep.next() is None


def test_a_sweep_grows_when_more_trials_are_wanted(tmp_path):
    space = read_space(SPACE)
    plan, ledger = planned(space, "random", 0, 6), str(tmp_path)
    for count in (2, 5):
        sweep = Sweep(space, Ledger(ledger, {}), count=count, seed=0, metric="m", plan=plan, halving=None)
        begun = []
        while trial := sweep.next():
            begun.append(trial.number)
            sweep.end(trial.number, "failed", "no")
        assert begun == ([0, 1] if count == 2 else [2, 3, 4])


def test_a_trial_whose_file_is_removed_is_tried_again(tmp_path):
    whole = run(tmp_path, halving=False)
    (tmp_path / "ledger" / "trial-00002.json").unlink()
    again = run(tmp_path, halving=False)
    assert [(trial.number, trial.values, trial.state) for trial in again.trials] == [
        (trial.number, trial.values, trial.state) for trial in whole.trials
    ]


def test_a_failed_trial_whose_state_is_set_to_running_is_tried_again(tmp_path):
    """Also where the search would decide otherwise by now: its values and its reports are kept."""
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
    """A shorter trial ends at a rung of the others: it counts there, and is whole, also if the driver died before it
    heard so."""
    space = read_space(SPACE)

    def opened() -> Sweep:
        plan, early = planned(space, "grid", 0, 3), Halving(8, 2, 128)
        return Sweep(space, Ledger(str(tmp_path), {}), count=3, seed=0, metric="m", plan=plan, halving=early)

    sweep = opened()
    assert [sweep.next().number for _ in range(3)] == [0, 1, 2]
    assert not sweep.report(0, 4, 8, {"m": 1.0})
    assert not sweep.report(1, 8, 8, {"m": 3.0}, last=True)
    assert not sweep.report(2, 4, 8, {"m": 1.9})  # not above 2, the middle of both
    again = opened()
    assert [trial.state for trial in again.trials] == ["running"] * 3
    again.end(1, "finished")
    assert opened().trials[1].state == "finished"


def test_a_ledger_that_does_not_say_whether_a_report_was_the_last(tmp_path):
    whole = run(tmp_path)
    for file in (tmp_path / "ledger").glob("trial-*.json"):
        content = json.loads(file.read_text())
        for report in content["reports"]:
            del report["last"]
        file.write_text(json.dumps(content))
    assert told(run(tmp_path, at=0)) == told(whole)


def test_the_first_end_counts(tmp_path):
    sweep = Sweep(read_space(SPACE), Ledger(str(tmp_path), {}), count=1, seed=0, metric="m", plan=planned(read_space(SPACE), "grid", 0, 1), halving=None)  # fmt: skip
    trial = sweep.next()
    sweep.end(trial.number, "failed", "it diverged")
    sweep.end(trial.number, "finished")
    assert (trial.state, trial.error) == ("failed", "it diverged")
    assert sweep.report(trial.number, 1, 2, {"m": 1.0})
    assert trial.reports == []


def test_a_metric_that_nobody_reports_is_refused_at_the_first_report(tmp_path):
    with pytest.raises(ValueError, match=r"'val/fid'; there are val/denoising, val/other"):
        run(tmp_path, metric="val/fid")
    assert Ledger(str(tmp_path), {"space": SPACE}).trials[0].reports == []


def test_another_metric_ranks_what_was_reported(tmp_path):
    run(tmp_path)
    assert best(run(tmp_path, metric="val/other").trials, "val/other").value("val/other") == 0.5
    with pytest.raises(ValueError, match="val/fid"):
        run(tmp_path, metric="val/fid")


def test_what_a_sweep_was_started_with_must_not_change(tmp_path):
    Ledger(str(tmp_path), {"recipe": {"train.lr": 1.0, "a": None}, "seed": 0})
    Ledger(str(tmp_path), {"recipe": {"train.lr": 1.0, "a": None}, "seed": 0})
    with pytest.raises(ValueError, match=r"recipe train\.lr=1\.0, now it is 2\.0.*another --name"):
        Ledger(str(tmp_path), {"recipe": {"train.lr": 2.0, "a": None}, "seed": 0})
    with pytest.raises(ValueError, match=r"seed=0, now it is 1"):
        Ledger(str(tmp_path), {"recipe": {"train.lr": 1.0, "a": None}, "seed": 1})


def test_a_sweep_from_before_there_was_a_key_had_its_default(tmp_path):
    """As a run does; also a key whose default is null, and one that the recipe now says otherwise is named."""
    Ledger(str(tmp_path), {"recipe": {"train.lr": 1.0}})
    default = {"train.clip": 1.0, "text": None}.get
    Ledger(str(tmp_path), {"recipe": {"train.lr": 1.0, "train.clip": 1.0, "text": None}}, default)
    with pytest.raises(ValueError, match=r"recipe train\.clip=1\.0, now it is 2\.0"):
        Ledger(str(tmp_path), {"recipe": {"train.lr": 1.0, "train.clip": 2.0}}, default)
    with pytest.raises(ValueError, match=r"recipe train\.lr=1\.0, now it is null"):
        Ledger(str(tmp_path), {"recipe": {"train.clip": 1.0}}, default)


@pytest.mark.parametrize("content", ["{", "[]", '{"number": 0}', '{"number": 0, "values": {}, "reports": [], "x": 1}'])
def test_a_damaged_ledger_is_named(tmp_path, content):
    run(tmp_path)
    (tmp_path / "ledger" / "trial-00002.json").write_text(content)
    with pytest.raises(ValueError, match=r"trial-00002\.json is damaged"):
        Ledger(str(tmp_path), {"space": SPACE})


def trials_of(*given) -> list[Trial]:
    """(state, value, images) of each trial."""
    space = read_space(SPACE)
    return [
        Trial(number, space.combination(number), "", state, "out of memory" if state == "failed" else "", 1.0,
              [] if value is None else [Report(number, images // 2, images, {"m": value, "m_snr_-8_to_-5": 2.0})])
        for number, (state, value, images) in enumerate(given)
    ]  # fmt: skip


def test_optuna_asks_the_same_after_a_kill_and_learns():
    """The same past, the same question. On a parabola in log(lr) its questions move to the minimum."""
    space = read_space({"train.lr": "log(1e-6, 1)", "sde.kind": ["vp", "ve"], "train.warmup": "int(1, 9)"})
    past: list[Trial] = []
    for number in range(120):
        values = suggested(space, 0, number, past, "m")
        if number < 40:
            assert values == suggested(space, 0, number, list(reversed(past)), "m")
        assert 1e-6 <= values["train.lr"] <= 1.0
        assert values["sde.kind"] in ("vp", "ve")
        assert values["train.warmup"] in range(1, 10)
        error = (math.log10(values["train.lr"]) + 3.0) ** 2 + (values["sde.kind"] == "ve")
        state = "stopped" if error > 4.0 else "finished"
        past.append(Trial(number, values, "", state, "", 0.0, [Report(number, 1, 2, {"m": error})]))
    distances = [abs(math.log10(trial.values["train.lr"]) + 3.0) for trial in past]
    # questions that learn nothing: uniform distances to 3, of mean 1.5; and half of them vp
    assert np.mean(distances[-40:]) < 1.5 - 4.0 * math.sqrt(0.75 / 40)
    assert sum(trial.values["sde.kind"] == "vp" for trial in past[-80:]) > 40 + 4.0 * math.sqrt(20.0)


def test_optuna_searches_between_the_ends_in_the_space_s_own_sense():
    """Ends of whole numbers belong to them; a log range is one; choices go by their index."""
    given = {"train.lr": "log(1e-6, 1)", "train.clip": "uniform(0.5, 2)", "train.warmup": "int(2, 9)", "sde.kind": ["vp", "ve", "edm"]}  # fmt: skip
    lr, clip, warmup, kinds = (_distribution(axis.values) for axis in read_space(given).axes)
    assert (lr, clip) == (FloatDistribution(1e-6, 1.0, log=True), FloatDistribution(0.5, 2.0))
    assert warmup == IntDistribution(2, 9)
    assert kinds == CategoricalDistribution((0, 1, 2))


def test_questions_of_optuna_differ_by_seed_and_number():
    """Before anything came out, they are draws of their own."""
    space = read_space({"train.lr": "log(1e-6, 1)"})
    asked = [suggested(space, seed, number, [], "m")["train.lr"] for seed in (0, 1) for number in range(4)]
    assert len(set(asked)) == 8


def test_optuna_hears_how_each_trial_ended():
    """Values of whole trials, the course of those that were stopped, and nothing of those that failed or run."""
    space = read_space({"train.lr": "log(1e-4, 1)", "sde.kind": ["vp", "ve"]})
    distributions = {axis.name: _distribution(axis.values) for axis in space.axes}

    def told(state: str, *values: float):
        reports = [Report(n, n + 1, 8 * (n + 1), {"m": value, "other": 9.0}) for n, value in enumerate(values)]
        trial = Trial(0, {"train.lr": 0.01, "sde.kind": "ve"}, "", state, "", 0.0, reports)
        found = _told(space, trial, "m", distributions)
        assert found.params == {"train.lr": 0.01, "sde.kind": 1}
        return found.state.name, found.value, found.intermediate_values

    assert told("finished", 3.0, 2.0) == ("COMPLETE", 2.0, {8: 3.0, 16: 2.0})
    assert told("stopped", 3.0, 2.5)[0] == "PRUNED"
    assert told("stopped", 3.0, 2.5)[2] == {8: 3.0, 16: 2.5}
    assert told("running", 3.0) == ("RUNNING", None, {})
    assert told("failed", 3.0) == ("FAIL", None, {})
    assert told("finished", 3.0, math.inf) == ("FAIL", None, {})
    assert told("stopped") == ("FAIL", None, {})


def test_optuna_is_told_of_what_failed_and_what_runs():
    space = read_space(SPACE)
    past = trials_of(
        ("failed", None, 0), ("failed", 1.0, 4), ("running", 2.0, 4), ("running", None, 0), ("finished", math.inf, 8)
    )
    assert suggested(space, 0, 5, past, "m").keys() == SPACE.keys()


# the ranking


def test_whole_trials_rank_by_value_and_before_those_that_were_stopped():
    trials = trials_of(
        ("stopped", 0.1, 32), ("finished", 0.5, 128), ("failed", None, 0), ("finished", 0.4, 128), ("stopped", 0.2, 64), ("finished", math.nan, 128)
    )  # fmt: skip
    assert [trial.number for trial in ranked(trials, "m")] == [3, 1, 5, 4, 0, 2]
    assert best(trials, "m").number == 3
    assert best(trials_of(("failed", 0.1, 8), ("finished", math.inf, 8)), "m") is None


def test_equal_trials_rank_by_number_and_stopped_ones_by_what_they_saw():
    trials = trials_of(
        ("stopped", 0.3, 64), ("finished", 0.5, 128), ("stopped", 0.2, 64), ("stopped", 0.1, 32), ("running", 0.0, 256),
        ("finished", 0.5, 64), ("stopped", 0.2, 64), ("failed", 0.0, 256),
    )  # fmt: skip
    assert [trial.number for trial in ranked(list(reversed(trials)), "m")] == [1, 5, 2, 6, 0, 3, 4, 7]


def test_more_than_ten_trials_are_in_the_order_of_their_numbers(tmp_path):
    """On disk, in the sweep that goes on, and in the ranking."""
    space, count = read_space({"train.lr": "log(1e-4,1e-1)"}), 13
    plan = planned(space, "random", 0, count)
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
    assert [trial.number for trial in ranked(again.trials, "m")] == list(range(count))


@pytest.mark.parametrize(("values", "expected"), [((0.0, 0.1), 0), ((-1.0, 0.0), 0), ((math.nan, 0.0), 1)])
def test_zero_is_a_value_like_any_other(values, expected):
    """A figure that is 0 wins where nothing is lower, and is drawn."""
    trials = trials_of(*(("finished", value, 128) for value in values))
    assert best(trials, "m").number == expected
    assert plots.pictures(trials[expected : expected + 1], read_space(SPACE), "m")


def test_a_trial_that_was_stopped_is_the_best_where_no_whole_one_has_a_value():
    trials = trials_of(("finished", math.nan, 128), ("stopped", 0.4, 64), ("stopped", 0.3, 64), ("failed", 0.1, 64))
    assert best(trials, "m").number == 2


def test_the_table_lists_failures_with_their_errors():
    lines = table(trials_of(("finished", 0.5, 128), ("failed", None, 0)), read_space(SPACE), "m").splitlines()
    assert lines[0].split() == ["rank", "trial", "sde.kind", "train.lr", "m", "step", "images", "state", "seconds"]
    assert lines[1].split() == ["1", "000", "vp", "0.001", "0.50000", "64", "128", "finished", "1"]
    assert lines[2].split()[:2] == ["-", "001"]
    assert lines[3] == "trial 001 failed: out of memory"


def test_the_csv_has_every_metric_in_full():
    trials = trials_of(("finished", 0.1234567890123, 128), ("failed", None, 0))
    found = list(csv.DictReader(io.StringIO(as_csv(trials, read_space(SPACE), "m"))))
    assert float(found[0]["m"]) == 0.1234567890123
    assert float(found[0]["m_snr_-8_to_-5"]) == 2.0
    assert (found[0]["sde.kind"], float(found[0]["train.lr"])) == ("vp", 1e-3)
    assert (found[1]["m"], found[1]["error"]) == ("", "out of memory")


def test_the_best_recipe_trains_what_the_trial_trained(tmp_path, monkeypatch):
    """Read from another folder, it is the trial's recipe but for its name."""
    monkeypatch.chdir(tmp_path)
    space = read_space({"sde": [{"kind": "ve", "sigma_max": 20}], "train.lr": [3e-5]})
    trial = Trial(0, space.combination(0), reports=[Report(0, 1, 2, {"m": 0.5})])
    tree = {**loading.read_mapping(DIGITS, "recipe"), "storage": "runs", "data": {"path": "shards"}}
    (tmp_path / "best.yaml").write_text(best_recipe(tree, space, trial, "won", "m"))
    monkeypatch.chdir("/")
    again, expected = loading.load(tmp_path / "best.yaml"), loading.parse(varied(tree, space, trial.values))
    differ = {key for key, value in again.flat().items() if expected.flat()[key] != value}
    assert differ == {"name", "storage", "data.path"}
    assert (again.name, again.storage, again.data.path) == ("won", f"{tmp_path}/runs", f"{tmp_path}/shards")
    assert (again.sde.sigma_max, again.train.lr) == (20.0, 3e-5)


def test_values_lie_on_an_axis_by_their_size():
    assert plots.places([1.0, 10.0, 100.0], True)[0] == pytest.approx([0.0, 0.5, 1.0])
    assert plots.places([1.0, 2.0, 5.0], False)[0] == [0.0, 0.25, 1.0]
    assert plots.places(["ve", "vp", "ve"], False) == ([0.0, 1.0, 0.0], [(0.0, "ve"), (1.0, "vp")])


def test_bins_of_log_snr_come_in_order():
    metrics = {"m_snr_1_to_3": 1.0, "m_snr_-8_to_-5": 2.0, "m": 3.0, "other_snr_1_to_3": 9.0, "m_snr_-1_to_1": 4.0}
    trial = Trial(0, {}, reports=[Report(0, 1, 2, metrics)])
    assert plots.bins_of(trial, "m") == [(-8.0, -5.0, 2.0), (-1.0, 1.0, 4.0), (1.0, 3.0, 1.0)]


def test_the_pictures_show_every_trial(tmp_path):
    trials = trials_of(("finished", 0.5, 128), ("stopped", 0.7, 32), ("failed", None, 0))
    space = read_space(SPACE)
    assert set(plots.pictures(trials, space, "m")) == {"parallel-coordinates.png", "error-by-log-snr.png"}
    assert len(plots.parallel(trials[:2], space, "m").axes[0].lines) == 2 + 3  # trials and axes
    best_line = plots.by_log_snr(trials[:2], "m").axes[0].lines[-1]
    assert list(best_line.get_xdata()) == [-6.5]
    assert best_line.get_label() == "trial 000, the best"
    assert plots.pictures(trials[2:], space, "m") == {}


def test_the_line_counts_trials_and_names_the_best(tmp_path):
    sweep, out = run(tmp_path), io.StringIO()
    line = SweepLine(sweep, 2, out=out)
    line.close()
    states = [trial.state for trial in sweep.trials]
    assert (
        f"sweep 6/6 trials ({states.count('finished')} finished, {states.count('stopped')} stopped, 0 running)"
        in out.getvalue()
    )
    assert f"by trial {best(sweep.trials, DEFAULT_METRIC).number:03d}" in out.getvalue()


def test_the_line_tells_the_time_that_is_left(tmp_path):
    """Of ten trials three ended in 70 s beside one that counts as half done: 20 s each, so 5.5 more take 110 s."""
    space = read_space({"train.lr": "log(1e-4,1e-1)"})
    plan = planned(space, "random", 0, 10)
    sweep = Sweep(space, Ledger(str(tmp_path), {}), count=10, seed=0, metric="m", plan=plan, halving=None)
    sweep.report(sweep.next().number, 1, 8, {"m": 0.25})
    assert "best" not in SweepLine(sweep, 1, out=io.StringIO()).text()  # nothing has ended
    sweep.end(0, "finished")
    line = SweepLine(sweep, 1, out=io.StringIO())
    assert line.text().endswith("? left")
    for number in (1, 2, 3):
        sweep.report(sweep.next().number, 1, 8, {"m": 0.5 + number})
        sweep.end(number, "failed" if number == 3 else "finished")
    sweep.report(sweep.next().number, 1, 8, {"m": 0.0})  # under way: not yet the best
    line.begun -= 70.0
    assert line.text().startswith(
        "sweep 4/10 trials (3 finished, 1 failed, 1 running)  best 0.2500 by trial 000: train.lr="
    )
    assert line.text().endswith("1m50s left")


@pytest.mark.parametrize(("value", "text"), [({"kind": "vp", "schedule": "cosine"}, "vp schedule=cosine"), (1e-5, "1e-05"), (["a", 2], "a/2"), (None, "null")])  # fmt: skip
def test_values_in_a_few_characters(value, text):
    assert shown(value) == text


# settings


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_can_be_typed(path):
    """Its header's command names a recipe of which every combination is one."""
    command = path.read_text().split("raysde tune ")[1].split()[:3]
    assert command[1:] == ["--sweep", f"jobs/sweeps/{path.name}"]
    settings = read_settings(path, [], {})
    tree, space = base_tree(ROOT / command[0], settings, []), read_space(settings.space)
    count = count_of(space, settings.search, settings.trials)
    check_recipes(tree, space, planned(space, settings.search, settings.seed, count))
    recipe = loading.parse(tree)
    assert count >= 16
    assert halving_for(settings, recipe.train.length.steps, recipe.validation.every, recipe.train.batch).rungs


def test_the_command_line_goes_before_the_file(tmp_path):
    (tmp_path / "s.yaml").write_text(
        "{space: {train.lr: [1, 2]}, trials: 4, seed: 3, recipe: {train.batch: 64, train.clip: 2}}"
    )
    settings = read_settings(
        tmp_path / "s.yaml", ["train.lr=log(1e-4,1e-2)", "sde=[{kind: ve}]"], {"trials": 8, "seed": None}
    )
    assert settings.space == {"train.lr": "log(1e-4,1e-2)", "sde": [{"kind": "ve"}]}
    assert (settings.trials, settings.seed) == (8, 3)
    assert read_space(settings.space).axes[0].values == Range("log", 1e-4, 1e-2)
    tree = base_tree(DIGITS, settings, ["train.batch=32"])
    assert (tree["train"]["batch"], tree["train"]["clip"]) == (32, 2)


def test_early_stopping_counts_images():
    """Rungs at 65, 130 steps of 128 images."""
    settings = read_settings(None, [], {"reduction": 2.0})
    assert [rung for rung, _ in halving_for(settings, 260, 65, 128).rungs] == [130 * 128, 65 * 128]


@pytest.mark.parametrize(
    ("given", "rungs"),
    [({}, [80, 20]), ({"grace": 10}, [160, 40]), ({"reduction": 2.0, "grace": 20}, [160, 80]), ({"grace": 79}, [316])],
)
def test_rungs_begin_at_the_grace_or_at_the_first_validation(given, rungs):
    """Of 80 steps of 4 images, validated every 5."""
    found = halving_for(read_settings(None, [], given), 80, 5, 4)
    assert ([rung for rung, _ in found.rungs], found.longest) == (rungs, 320)
    assert halving_for(read_settings(None, [], {**given, "scheduler": "fifo"}), 80, 5, 4) is None


def test_options_of_zero_replace_those_of_the_file(tmp_path):
    (tmp_path / "s.yaml").write_text("seed: 5\ntrials: 3\n")
    found = read_settings(str(tmp_path / "s.yaml"), [], {"seed": 0, "trials": None})
    assert (found.seed, found.trials) == (0, 3)


def test_the_settings_that_the_help_promises():
    """`raysde tune --help` names these defaults."""
    found = read_settings(None, [], {})
    assert (found.search, found.seed, found.scheduler, found.reduction) == ("random", 0, "asha", 4.0)
    assert (found.trials, found.grace, found.concurrent, found.metric) == (None, None, None, "val/denoising")


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        (["--over", "sde.kimd=[vp,ve]"], "sde.kind"),
        (["--over", "train.lr"], "key=value"),
        (["--over", "train.lr=[1e-3,1e-2]", "--scheduler", "pbt"], "scheduler pbt is refused: it pauses"),
        (["--over", "train.lr=[1e-3,1e-2]", "--scheduler", "PB2"], "PB2 is refused"),
        (["--over", "train.lr=[1e-3,1e-2]", "--scheduler", "bohb"], "bohb is refused"),
        (["--over", "train.lr=[1e-3,1e-2]", "--scheduler", "hyperband"], "hyperband is refused"),
        (["--over", "train.lr=[1e-3,1e-2]", "--scheduler", "median"], "one of asha, fifo"),
        (["--over", "train.lr=[1e-3,1e-2]", "--reduction", "1"], "reduction"),
        (["--over", "train.lr=[1e-3,1e-2]", "--grace", "300"], "grace=300"),
        (["--over", "train.lr=[1e-3,1e-2]", "validation.every=260"], "validation.every=260"),
        (["--over", "train.lr=[1e-3,1e-2]", "validation.rows=0"], "validation.rows"),
        (["--over", "train.lr=[1e-3,1e-2]", "validation.rows=null"], "validation.rows"),
        (["--over", "train.lr=[1e-3,1e-2]", "validation.every=0"], "validation.every"),
        (["--over", "train.lr=[1e-3,1e-2]", "validation.every=0", "--scheduler", "fifo"], "validation.every"),
        (["--over", "train.lr=log(1e-3,1e-2)"], "--trials"),
        (["--over", "sde.kind=[vp,ve]", "--over", "sde.beta_max=[10]"], "sde.kind=ve, sde.beta_max=10"),
        (["--over", "network.multipliers=[[1,2],[1,2,2,2,2]]"], "network.multipliers=1/2/2/2/2"),
        (["--over", "train.lr=[1e-3,1e-2]", "--sweep", "/no/such"], "/no/such"),
        (["--over", "train.lr=[1e-3,1e-2]", "--name", "../x"], "name"),
        (["train.lr=0", "--over", "sde.kind=[vp,ve]"], "train.lr"),
    ],
)
def test_tune_refuses(capsys, monkeypatch, digits, tmp_path, options, culprit):
    """One sentence and status 2, before Ray starts."""
    monkeypatch.setattr("raysde.cluster.tune_training.connect", lambda level: pytest.fail("Ray was started"))
    places = [f"data.path={digits.path}", f"storage={tmp_path}/runs", f"tracking.uri=sqlite:///{tmp_path}/m.db"]
    assert main(["tune", str(DIGITS), *places, *options]) == 2
    said = capsys.readouterr().err.strip()
    assert said.count("\n") == 0
    assert said.startswith("raysde: ")
    assert culprit in said
