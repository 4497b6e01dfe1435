"""Best and newest checkpoints of whole runs: their metrics, kills, early stopping, and the one that is registered."""

import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from raysde.checkpoints import checkpoint, storage
from raysde.config import loading
from raysde.distributed.world import World
from raysde.runs import keeping, local
from raysde.runs.build import make_validator
from raysde.runs.run import check_resumable, open_run
from raysde.training.ranking import Ranking
from tests.runs.test_saving import KILLED
from tests.support.paths import ROOT
from tests.support.training import Recorded, same_tensors, small_recipe

LOSSES = (5.0, 2.0, 4.0, 1.0, 3.0, 2.0)
"""Scripted validation losses of the steps 1, 2, ...; the best is at step 4, the second best at step 2."""


def tree_of(digits, place: Path, /, **changes) -> dict:
    given = {"text": None, "train__lr": 3e-2, "train__length__steps": len(LOSSES), "checkpoint_every": 1,
             "validation__rows": 24, "validation__every": 0}  # fmt: skip
    return small_recipe(digits, place, **{**given, **changes})


def train(tree: dict, sink=None):
    run = open_run(loading.parse_recipe(tree))
    local.train_here(run, sink)
    return run


def steps_of(tree: dict) -> list[int]:
    return sorted(int(path.name.removeprefix("step_")) for path in (Path(tree["storage"]) / "small").glob("step_*"))


def at(tree: dict, step: int) -> Path:
    return Path(tree["storage"]) / "small" / checkpoint.checkpoint_name(step)


@pytest.fixture
def scripted(monkeypatch):
    """Let each validation return the next of LOSSES."""
    left = iter(LOSSES)
    monkeypatch.setattr(local, "make_validator", lambda run, world: lambda model: {"val/loss": next(left, 9.0)})


def test_the_newest_the_best_and_every_fifth_stay(digits, tmp_path, scripted):
    """After steps 1 to 6 the folder has the newest, the two best (4 and 2), and step 5 for good."""
    keep = {"newest": 1, "best": 2, "by": "val/loss", "mode": "min", "every": 5}
    tree = tree_of(digits, tmp_path, keep=keep)
    train(tree)
    assert steps_of(tree) == [2, 4, 5, 6]


def test_a_former_name_keeps_the_newest(digits, tmp_path, scripted):
    """keep_checkpoints=2 keeps two; the best of the validated ones stays too, here the only one: that of the end."""
    tree = tree_of(digits, tmp_path, keep_checkpoints=2, validation__every=100)
    train(tree)
    assert steps_of(tree) == [5, 6]


def test_a_checkpoint_has_the_metrics_of_its_own_weights(digits, tmp_path):
    """Each checkpoint is measured although no validation is due, the log has the same values, and the model in the
    checkpoint gives them again, to the bit."""
    sink, tree = Recorded(), tree_of(digits, tmp_path, keep={"best": 9})
    run = train(tree, sink)
    logged = sink.of("val/loss")
    assert sorted(logged) == list(range(1, 7))
    assert steps_of(tree) == sorted(logged)
    validate = make_validator(run, World())
    for step in (2, 5):
        model = checkpoint.load_model(at(tree, step)).score_model
        with torch.no_grad():
            assert validate(model)["val/loss"] == logged[step]
        assert checkpoint.read_description(at(tree, step)).state["metrics"]["val/loss"] == logged[step]


def test_without_the_new_keys_nothing_more_is_measured(digits, tmp_path):
    """Validations are those of validation.every and of the end; weights do not depend on the ranking."""
    plain, ranked = (
        tree_of(digits, tmp_path / name, validation__every=4, **given)
        for name, given in (("plain", {}), ("ranked", {"keep": {"best": 1}}))
    )
    seen = {name: Recorded() for name in ("plain", "ranked")}
    train(plain, seen["plain"])
    train(ranked, seen["ranked"])
    assert sorted(seen["plain"].of("val/loss")) == [4, 6]
    assert sorted(seen["ranked"].of("val/loss")) == list(range(1, 7))
    for kind in ("ema", "weights", "optimizer"):
        assert same_tensors(*(load_file(at(tree, 6) / f"{kind}.safetensors") for tree in (plain, ranked)))


def test_measurements_of_checkpoints_do_not_use_up_patience(digits, tmp_path, monkeypatch):
    """Only validations of validation.every count: the loss rises at each step, and the run stops at the second
    validation after its first, and not at the second checkpoint."""
    rising = iter(range(1, 100))
    monkeypatch.setattr(local, "make_validator", lambda run, world: lambda model: {"val/loss": float(next(rising))})
    changes = {"validation__every": 2, "validation__patience": 2, "train__length__steps": 20, "keep": {"best": 1}}
    tree = tree_of(digits, tmp_path, **changes)
    train(tree)
    assert steps_of(tree) == [1, 4, 5, 6]  # the best, and the newest three
    state = checkpoint.read_description(at(tree, 6)).state
    assert state["stopped"] is True


def test_a_run_that_stops_early_has_its_best_and_its_last(digits, tmp_path, monkeypatch):
    """Losses fall until step 2 and rise after it; the run stops at step 4."""
    losses = iter([3.0, 1.0, 2.0, 2.5])
    monkeypatch.setattr(local, "make_validator", lambda run, world: lambda model: {"val/loss": next(losses)})
    changes = {"validation__every": 1, "validation__patience": 2, "train__length__steps": 20}
    tree = tree_of(digits, tmp_path, keep={"newest": 1}, **changes)
    run = train(tree)
    assert steps_of(tree) == [2, 4]
    chosen = keeping.choose_published(run, at(tree, 4), print)
    assert (chosen.folder, chosen.which, chosen.value) == (at(tree, 2), "best", 1.0)
    assert chosen.reason == "best by val/loss, 1"


@pytest.mark.parametrize(
    ("given", "step"),
    [({}, 4), ({"publish": "last"}, 6), ({"publish": "best"}, 4), ({"keep": {"newest": 6, "best": 0}}, 6)],
)
def test_the_choice_of_the_registered_checkpoint(digits, tmp_path, scripted, given, step):
    """The best where validation runs; the last if the recipe asks for it or keeps no best."""
    tree = tree_of(digits, tmp_path, validation__every=1, **given)
    run = train(tree)
    assert keeping.choose_published(run, at(tree, 6), print).folder == at(tree, step)


def test_without_validation_the_last_is_registered(digits, tmp_path):
    said = []
    tree = tree_of(digits, tmp_path, validation__rows=0)
    run = train(tree)
    assert keeping.choose_published(run, at(tree, 6), said.append).which == "last"
    assert said == []


def test_losses_that_are_no_numbers_leave_the_last(digits, tmp_path, monkeypatch):
    """A run whose losses are all NaN ranks nothing, and says so."""
    monkeypatch.setattr(local, "make_validator", lambda run, world: lambda model: {"val/loss": math.nan})
    tree, said = tree_of(digits, tmp_path, keep={"best": 1}), []
    run = train(tree)
    assert keeping.choose_published(run, at(tree, 6), said.append).folder == at(tree, 6)
    assert said == ["no checkpoint of run 'small' has a finite val/loss, so the last one is taken"]


def test_a_run_goes_on_from_its_newest_and_not_its_best(digits, tmp_path, scripted):
    """The best of six steps is the fourth; the longer run trains the seventh step alone."""
    tree = tree_of(digits, tmp_path, validation__every=1)
    train(tree)
    sink = Recorded()
    longer = loading.parse_recipe(
        {**tree, "train": {**tree["train"], "length": {"steps": 7}}, "validation": {"rows": 24}}
    )
    local.train_here(open_run(longer), sink)
    assert [step for step, values in sink.values if "train/loss" in values] == [7]


@pytest.mark.parametrize("point", ["ema.safetensors", "checkpoint.json", "rename", "prune"])
def test_best_and_newest_survive_a_kill(digits, tmp_path, point):
    """Killed by SIGKILL while the third checkpoint is written, or between its write and the prune, the run ends with
    the same checkpoints and weights as an undisturbed one."""
    keep = {"newest": 1, "best": 2, "by": "val/denoising"}
    whole, broken = (tree_of(digits, tmp_path / name, keep=keep) for name in ("whole", "broken"))
    train(whole)
    command = [sys.executable, "-c", KILLED, json.dumps(broken), point]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, timeout=300, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert storage.find_newest_checkpoint(broken["storage"], "small").step == (3 if point == "prune" else 2)
    assert storage.fetch_best_checkpoint(broken["storage"], "small", Ranking("val/denoising")) is not None
    train(broken)
    assert steps_of(broken) == steps_of(whole)
    for step in steps_of(whole):
        assert same_tensors(*(load_file(at(tree, step) / "ema.safetensors") for tree in (whole, broken)))
        states = [checkpoint.read_description(at(tree, step)).state for tree in (whole, broken)]
        assert states[0] == states[1]


def test_the_metric_of_a_run_cannot_change_under_it(digits, tmp_path):
    """keep.by is refused, since patience and ranks would mix two metrics; numbers of checkpoints may change, and a
    checkpoint from before the keys existed goes on."""
    run = train(tree_of(digits, tmp_path, train__length__steps=1))
    found = checkpoint.read_description(at(tree_of(digits, tmp_path), 1))
    other = open_run(loading.parse_recipe(tree_of(digits, tmp_path, keep={"by": "val/denoising"})))
    with pytest.raises(ValueError, match=r"keep\.by=val/loss, the recipe says val/denoising"):
        check_resumable(other, found)
    check_resumable(open_run(loading.parse_recipe(tree_of(digits, tmp_path, keep={"newest": 9, "best": 2}))), found)
    for key in [key for key in found.recipe if key.startswith("keep.") or key == "publish"]:
        del found.recipe[key]
    found.recipe["keep_checkpoints"] = 3
    check_resumable(run, found)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"keep": {"newest": 0}}, "keep.newest: must be at least 1, got 0"),
        ({"keep": {"best": -1}}, "keep.best: must be at least 0, got -1"),
        ({"keep": {"every": "10min"}}, "keep.every: must be an integer"),
        ({"keep": {"by": "val/los"}}, "keep.by=val/los is no metric of this run; did you mean val/loss?"),
        ({"keep": {"mode": "max"}}, "keep: mode=max does not fit val/loss, whose lower values are better"),
        ({"keep": {"by": "val/denoising_reach"}}, "it is not known if lower or higher is better; set keep.mode"),
        ({"keep": {"mode": "least"}}, "keep.mode: must be 'min' or 'max'"),
        ({"publish": "newest"}, "publish: must be 'best' or 'last'"),
        ({"publish": "best", "keep": {"best": 0}}, "publish=best needs a best checkpoint: set keep.best=1 or more"),
        ({"keep": {"best": 1}, "validation__rows": 0}, "keep.best needs held-out rows: set validation.rows"),
        ({"publish": "best", "validation__rows": 0}, "publish=best needs held-out rows: set validation.rows"),
        ({"keep": {"best": 1}, "validation__rows": None}, "keep.best needs held-out rows, and the data at"),
        ({"keep_checkpoints": 2, "keep": {"newest": 3}}, "keep_checkpoints is called keep.newest now, and both"),
        ({"keep": 3}, "keep: it is a section of keys, got 3"),
    ],
)
def test_a_bad_value_is_a_sentence(digits, tmp_path, changes, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)) as refused:
        open_run(loading.parse_recipe(tree_of(digits, tmp_path, **changes)))
    assert "\n" not in str(refused.value)


def test_a_former_name_is_answered_with_the_new_one(digits, tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_text(loading.dump_yaml(tree_of(digits, tmp_path)))
    assert loading.load_recipe(path, ["keep_checkpoints=7"]).keep.newest == 7
    assert "keep_checkpoints is called keep.newest now" in capsys.readouterr().err
    assert loading.load_recipe(path, ["keep.newest=7"]).keep.newest == 7
    assert capsys.readouterr().err == ""
