"""The registered version of a run is its best checkpoint, or its last."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from raysde import registry
from raysde.checkpoints import checkpoint
from raysde.cli import main
from raysde.cluster.job import publish_run
from raysde.config import loading
from raysde.runs import local
from raysde.runs.history import open_tracking_run, settle_run_word
from raysde.runs.run import open_run
from raysde.tracking import connect_client
from tests.support.training import same_tensors, small_recipe

LOSSES = (3.0, 1.0, 2.0)
"""Scripted validation losses of the steps 1, 2 and 3."""


@pytest.fixture
def mlflow_uri(tmp_path, monkeypatch, empty_store) -> str:
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def run(digits, tmp_path, monkeypatch):
    """Return a function that trains three steps with the scripted losses."""
    left = iter(LOSSES)
    monkeypatch.setattr(local, "make_validator", lambda run, world: lambda model: {"val/loss": next(left)})

    def train(**changes):
        tree = small_recipe(digits, tmp_path / "runs", text=None, train__lr=3e-2, train__length__steps=3,
                            checkpoint_every=1, validation__rows=24, validation__every=1, **changes)  # fmt: skip
        run = open_run(loading.parse_recipe(tree))
        local.train_here(run, None)
        return run

    return train


@pytest.mark.parametrize("publish", [None, "best", "last"])
def test_the_registered_version_has_the_weights_of_the_choice(run, tmp_path, mlflow_uri, publish):
    """The weights are those of step 2 or 3, bit for bit, the metric is a tag, and registering again, as after a kill,
    makes no second version."""
    made, client = run(publish=publish, keep={"newest": 1}), connect_client(mlflow_uri)
    run_id = open_tracking_run(made, client, mlflow_uri, settle_run_word(made))
    last, version, reason = publish_run(made, client, mlflow_uri, run_id)
    step = 3 if publish == "last" else 2
    folder = tmp_path / "runs" / "small"
    assert last == folder / checkpoint.checkpoint_name(3)
    found = registry.resolve_source(f"models:/small/{version}", mlflow_uri)
    kept = folder / checkpoint.checkpoint_name(step)
    assert same_tensors(load_file(found / "ema.safetensors"), load_file(kept / "ema.safetensors"))
    if step == 2:
        other = load_file(last / "ema.safetensors")
        assert not same_tensors(load_file(found / "ema.safetensors"), other)
    tags = client.get_model_version("small", version).tags
    assert tags["raysde.choice"] == ("last" if publish == "last" else "best")
    assert (tags["raysde.metric"], float(tags["raysde.metric.value"])) == ("val/loss", LOSSES[step - 1])
    assert tags["raysde.step"] == str(step)
    assert reason == ("last" if publish == "last" else "best by val/loss, 1")
    assert publish_run(made, client, mlflow_uri, run_id)[1] == version


def test_a_checkpoint_is_registered_by_its_name(run, tmp_path, mlflow_uri, capsys):
    """`raysde register RUN@best` registers step 2 with its metric."""
    run(keep={"newest": 1})
    assert main(["register", f"{tmp_path / 'runs' / 'small'}@best", "--tracking-uri", mlflow_uri]) == 0
    assert "models:/small/1 is candidate" in capsys.readouterr().out
    tags = connect_client(mlflow_uri).get_model_version("small", "1").tags
    assert (tags["raysde.step"], tags["raysde.metric.value"]) == ("2", "1.0")
    assert "raysde.choice" not in tags
    assert Path(registry.resolve_source("models:/small@candidate", mlflow_uri)).is_dir()
