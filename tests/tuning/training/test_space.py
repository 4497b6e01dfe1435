"""The space of a sweep: ranges, lists, nodes, keys that vary together, and refusals."""

import json
import math

import numpy as np
import pytest

from raysde.config import loading
from raysde.tuning.training.search import (
    count_trials,
    draw_trial,
    plan_trials,
)
from raysde.tuning.training.settings import read_settings
from raysde.tuning.training.space import check_recipes, format_value, read_space, vary_recipe
from tests.support.command_line import refused
from tests.support.sweeps import DIGITS, SPACE

TREE = {"name": "base", "data": {"path": "shards"}, "train": {"length": {"steps": 64}, "batch": 2}}


# the space


def test_ranges_in_their_own_sense():
    """Points of a log range have equal ratios, of a uniform one equal distances; the ends are included and exact."""
    lrs, decays, warmups = (read_space({"train.lr": text}).axes[0].values for text in ("log(1e-4,1e-1,4)", "uniform(0, 1, 5)", "int(1,10,4)"))  # fmt: skip
    assert lrs == (1e-4, 1e-3, 1e-2, 1e-1)
    assert decays == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert warmups == (1, 4, 7, 10)
    assert all(isinstance(value, int) for value in warmups)


@pytest.mark.parametrize(("text", "transform"), [("log(1e-5, 1e-1)", np.log), ("uniform(0.1, 0.9)", np.asarray)])
def test_draws_are_uniform_in_their_own_sense(text, transform):
    space = read_space({"train.lr": text})
    values = transform([draw_trial(space, 0, number)["train.lr"] for number in range(2000)])
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
    values = [draw_trial(space, 1, number)["train.warmup"] for number in range(200)]
    assert set(values) == {3, 4, 5, 6}


def test_numbers_that_yaml_takes_for_words():
    assert read_space({"train.lr": ["1e-4", 1e-3]}).axes[0].values == (1e-4, 1e-3)


@pytest.mark.parametrize(
    ("given", "culprit"),
    [
        ({}, "empty"),
        ({"train.learning_rate": [1]}, "'train.learning_rate'"),
        ({"train.lrr": [1]}, r"'train.lrr', which is no key of a recipe; did you mean train\.lr"),
        ({"sde.knd": ["vp"]}, r"sde\.kind"),
        ({"data.stream": ["ray", "worker"]}, "data.stream does not change the training"),
        ({"seed": [1, 2]}, "seed also decides which rows are held out"),
        ({"validation.every": [1, 2]}, "validation defines how trials are compared"),
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
    found = plan_trials(space, "grid", 0, count_trials(space, "grid", None))
    assert [(each["sde.kind"], each["train.lr"]) for each in found] == [
        (kind, lr) for kind in ("vp", "ve") for lr in (1e-3, 1e-2, 1e-1)
    ]


def test_a_random_search_of_lists_takes_nothing_twice():
    space = read_space(SPACE)
    found = plan_trials(space, "random", 3, 6)
    assert sorted(map(json.dumps, found)) == sorted(map(json.dumps, plan_trials(space, "grid", 0, 6)))
    assert found != plan_trials(space, "random", 4, 6)
    assert plan_trials(space, "random", 3, 4) == found[:4]


def test_a_trial_is_decided_by_seed_and_number():
    """Neither more trials nor another axis change the values of an axis."""
    one, two = (
        read_space({"train.lr": "log(1e-4,1e-2)"}),
        read_space({"sde.kind": ["vp", "ve"], "train.lr": "log(1e-4,1e-2)"}),
    )
    assert [draw_trial(one, 5, n)["train.lr"] for n in range(5)] == [
        draw_trial(two, 5, n)["train.lr"] for n in range(5)
    ]
    assert plan_trials(one, "random", 5, 9)[:5] == plan_trials(one, "random", 5, 5)


def test_axes_are_drawn_independently():
    """Axes that shared random numbers would walk along a diagonal; the standard error of a correlation is 1/sqrt(n)."""
    space = read_space({"train.lr": "uniform(0.1,0.9)", "train.ema.half_life": "uniform(1,9)"})
    values = np.array([[draw_trial(space, 5, n)[axis.name] for axis in space.axes] for n in range(400)])
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
        count_trials(read_space(given), search, trials)


def test_whole_nodes_and_keys_that_vary_together():
    space = read_space(
        {"sde,train.weighting": [[{"kind": "ve", "sigma_max": 20}, "target"], [{"kind": "sub_vp"}, "sigma2"]]}
    )
    tree = {**TREE, "sde": {"kind": "vp", "beta_max": 10.0}}
    first, second = (
        loading.parse_recipe(vary_recipe(tree, space, values)) for values in plan_trials(space, "grid", 0, 2)
    )
    assert (first.sde.kind, first.sde.sigma_max, first.train.weighting) == ("ve", 20.0, "target")
    assert (second.sde.kind, second.sde.beta_max, second.train.weighting) == ("sub_vp", 20.0, "sigma2")
    assert tree["sde"] == {"kind": "vp", "beta_max": 10.0}


def test_a_kind_that_does_not_accept_another_key_is_named_before_anything_starts():
    space = read_space({"sde.kind": ["vp", "ve"], "sde.beta_max": [10, 20]})
    check_recipes(TREE, space, plan_trials(space, "grid", 0, 2))
    with pytest.raises(
        ValueError, match=r"sde\.kind=ve, sde\.beta_max=10.*key 'sde\.beta_max' is none of sde\.kind=ve"
    ):
        check_recipes(TREE, space, plan_trials(space, "grid", 0, 4))


def test_the_order_of_axes_does_not_matter_to_a_recipe():
    one, two = {"sde.kind": ["ve"], "sde.sigma_max": [20.0]}, {"sde.sigma_max": [20.0], "sde.kind": ["ve"]}
    for given in (one, two):
        space = read_space(given)
        assert loading.parse_recipe(vary_recipe(TREE, space, space.combination(0))).sde.sigma_max == 20.0


@pytest.mark.parametrize(("value", "text"), [({"kind": "vp", "schedule": "cosine"}, "vp schedule=cosine"), (1e-5, "1e-05"), (["a", 2], "a/2"), (None, "null")])  # fmt: skip
def test_values_in_a_few_characters(value, text):
    assert format_value(value) == text
