"""Settings of a sweep from its file and the command line."""

import pytest

from raysde.cli import main
from raysde.config import loading
from raysde.config.builtin import list_builtin
from raysde.tuning.training.search import (
    count_trials,
    plan_trials,
)
from raysde.tuning.training.settings import base_tree, halving_for, read_settings
from raysde.tuning.training.space import Range, check_recipes, read_space
from tests.support.sweeps import DIGITS

SWEEPS = list_builtin("sweep").values()


# settings


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_can_be_typed(path):
    """The command in a sweep's header names a recipe, and every combination makes a valid one."""
    command = path.read_text().split("raysde tune ")[1].split()[:3]
    assert command[1:] == ["--sweep", path.stem]
    settings = read_settings(command[2], [], {})
    tree, space = base_tree(command[0], settings, []), read_space(settings.space)
    count = count_trials(space, settings.search, settings.trials)
    check_recipes(tree, space, plan_trials(space, settings.search, settings.seed, count))
    recipe = loading.parse_recipe(tree)
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
    """Rungs lie at 65 and 130 steps of 128 images."""
    settings = read_settings(None, [], {"reduction": 2.0})
    assert [rung for rung, _ in halving_for(settings, 260, 65, 128).rungs] == [130 * 128, 65 * 128]


@pytest.mark.parametrize(
    ("given", "rungs"),
    [({}, [80, 20]), ({"grace": 10}, [160, 40]), ({"reduction": 2.0, "grace": 20}, [160, 80]), ({"grace": 79}, [316])],
)
def test_rungs_begin_at_the_grace_or_at_the_first_validation(given, rungs):
    """Trials have 80 steps of 4 images, validated every 5."""
    found = halving_for(read_settings(None, [], given), 80, 5, 4)
    assert ([rung for rung, _ in found.rungs], found.longest) == (rungs, 320)
    assert halving_for(read_settings(None, [], {**given, "scheduler": "fifo"}), 80, 5, 4) is None


def test_options_of_zero_replace_those_of_the_file(tmp_path):
    (tmp_path / "s.yaml").write_text("seed: 5\ntrials: 3\n")
    found = read_settings(str(tmp_path / "s.yaml"), [], {"seed": 0, "trials": None})
    assert (found.seed, found.trials) == (0, 3)


def test_the_settings_that_the_help_promises():
    """The defaults are the ones that `raysde tune --help` names."""
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
    """The command prints one sentence and exits with status 2, before Ray starts."""
    monkeypatch.setattr("raysde.cluster.tune_training.connect", lambda level: pytest.fail("Ray was started"))
    places = [f"data.path={digits.path}", f"storage={tmp_path}/runs", f"tracking.uri=sqlite:///{tmp_path}/m.db"]
    assert main(["tune", str(DIGITS), *places, *options]) == 2
    said = capsys.readouterr().err.strip()
    assert said.count("\n") == 0
    assert said.startswith("raysde: ")
    assert culprit in said
