"""Searches by Optuna: its suggestions, and the results that it is given."""

import math

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from raysde.tuning.training.ledger import Report, Trial
from raysde.tuning.training.search import (
    _make_distribution,
    _make_optuna_trial,
    suggest_trial,
)
from raysde.tuning.training.space import read_space
from tests.support.sweeps import SPACE, trials_of


def test_optuna_asks_the_same_after_a_kill_and_learns():
    """The same past gives the same suggestion. On a parabola in log(lr) the suggestions move to the minimum."""
    space = read_space({"train.lr": "log(1e-6, 1)", "sde.kind": ["vp", "ve"], "train.warmup": "int(1, 9)"})
    past: list[Trial] = []
    for number in range(120):
        values = suggest_trial(space, 0, number, past, "m")
        if number < 40:
            assert values == suggest_trial(space, 0, number, list(reversed(past)), "m")
        assert 1e-6 <= values["train.lr"] <= 1.0
        assert values["sde.kind"] in ("vp", "ve")
        assert values["train.warmup"] in range(1, 10)
        error = (math.log10(values["train.lr"]) + 3.0) ** 2 + (values["sde.kind"] == "ve")
        state = "stopped" if error > 4.0 else "finished"
        past.append(Trial(number, values, "", state, "", 0.0, [Report(number, 1, 2, {"m": error})]))
    distances = [abs(math.log10(trial.values["train.lr"]) + 3.0) for trial in past]
    # without learning, distances are uniform up to 3 with mean 1.5, and half of the suggestions are vp
    assert np.mean(distances[-40:]) < 1.5 - 4.0 * math.sqrt(0.75 / 40)
    assert sum(trial.values["sde.kind"] == "vp" for trial in past[-80:]) > 40 + 4.0 * math.sqrt(20.0)


def test_optuna_searches_between_the_ends_in_the_space_s_own_sense():
    """Integer ranges include their ends; a log range stays one; choices are passed by their index."""
    given = {"train.lr": "log(1e-6, 1)", "train.clip": "uniform(0.5, 2)", "train.warmup": "int(2, 9)", "sde.kind": ["vp", "ve", "edm"]}  # fmt: skip
    lr, clip, warmup, kinds = (_make_distribution(axis.values) for axis in read_space(given).axes)
    assert (lr, clip) == (FloatDistribution(1e-6, 1.0, log=True), FloatDistribution(0.5, 2.0))
    assert warmup == IntDistribution(2, 9)
    assert kinds == CategoricalDistribution((0, 1, 2))


def test_questions_of_optuna_differ_by_seed_and_number():
    """Before any result, suggestions are independent draws."""
    space = read_space({"train.lr": "log(1e-6, 1)"})
    asked = [suggest_trial(space, seed, number, [], "m")["train.lr"] for seed in (0, 1) for number in range(4)]
    assert len(set(asked)) == 8


def test_optuna_hears_how_each_trial_ended():
    """Optuna gets the values of finished trials, the curves of stopped ones, and nothing of failed or running ones."""
    space = read_space({"train.lr": "log(1e-4, 1)", "sde.kind": ["vp", "ve"]})
    distributions = {axis.name: _make_distribution(axis.values) for axis in space.axes}

    def described(state: str, *values: float):
        reports = [Report(n, n + 1, 8 * (n + 1), {"m": value, "other": 9.0}) for n, value in enumerate(values)]
        trial = Trial(0, {"train.lr": 0.01, "sde.kind": "ve"}, "", state, "", 0.0, reports)
        found = _make_optuna_trial(space, trial, "m", distributions)
        assert found.params == {"train.lr": 0.01, "sde.kind": 1}
        return found.state.name, found.value, found.intermediate_values

    assert described("finished", 3.0, 2.0) == ("COMPLETE", 2.0, {8: 3.0, 16: 2.0})
    assert described("stopped", 3.0, 2.5)[0] == "PRUNED"
    assert described("stopped", 3.0, 2.5)[2] == {8: 3.0, 16: 2.5}
    assert described("running", 3.0) == ("RUNNING", None, {})
    assert described("failed", 3.0) == ("FAIL", None, {})
    assert described("finished", 3.0, math.inf) == ("FAIL", None, {})
    assert described("stopped") == ("FAIL", None, {})


def test_optuna_gets_what_failed_and_what_runs():
    space = read_space(SPACE)
    past = trials_of(
        ("failed", None, 0), ("failed", 1.0, 4), ("running", 2.0, 4), ("running", None, 0), ("finished", math.inf, 8)
    )
    assert suggest_trial(space, 0, 5, past, "m").keys() == SPACE.keys()
