"""Metrics and grids of a run without Ray, in its folder or in MLflow."""

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import raysde.training.loop
from raysde.checkpoints import checkpoint
from raysde.cli import main
from raysde.commands.signals import INTERRUPTED, SIGTERMED
from raysde.config import loading
from raysde.runs.history import History, open_tracking_run, record_history, settle_run_word
from raysde.runs.local import train_here
from raysde.runs.run import open_run
from raysde.tracking import connect_client
from tests.support.training import Recorded

SAMPLED = {"sampling__every": 2, "sampling__count": 2, "sampling__steps": 2, "validation__every": 3,
           "validation__rows": 8, "text": None}  # fmt: skip


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def values_of(lines) -> list[tuple]:
    """Return the metrics that do not depend on the clock."""
    timed = ("time", "train/images_per_second", "train/data_wait")
    return [
        (line["step"], {key: value for key, value in line.items() if key not in ("step", *timed)}) for line in lines
    ]


def by_command(tree: dict, tmp_path: Path, *overrides: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    assert main(["train", str(path), "--no-ray", *overrides]) == 0


def test_a_run_without_ray_keeps_its_history(recipe, tmp_path):
    """The folder has every metric in order and every grid, also after a killed process that lost steps."""
    tree = recipe(train__length__steps=8, checkpoint_every=3, **SAMPLED)
    sink = Recorded()
    train_here(open_run(loading.parse_recipe({**tree, "storage": str(tmp_path / "other")})), sink)
    wanted = values_of([{"step": step, **values} for step, values in sink.values])
    by_command(tree, tmp_path)
    folder = tmp_path / "runs" / "small"
    assert values_of(lines_of(folder)) == wanted
    grids = {path.name: path.read_bytes() for path in (folder / "samples").iterdir()}
    assert sorted(grids) == [f"grid-{step:09d}.png" for step in (2, 4, 6, 8)]
    picture = np.asarray(Image.open(folder / "samples" / "grid-000000008.png").convert("L"))
    images = checkpoint.load_model(checkpoint.find_newest_checkpoint(folder)).sample(n=2, steps=2).images
    assert np.array_equal(picture[1:65:8, 1:65:8], images[0, 0].numpy())
    for name in grids:
        with Image.open(folder / "samples" / name) as opened:
            about = {key: opened.info[key] for key in ("Software", "run", "step", "seed", "steps")}
        step = str(int(name[5:14]))
        assert about == {"Software": "raysde", "run": "small", "step": step, "seed": "0", "steps": "2"}
    # killed after step 7; the checkpoint of step 6, a torn line and a later grid are left
    shutil.rmtree(folder / "step_000000008")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "train/lo')
    (folder / "samples" / "grid-000000007.png").write_bytes(b"")
    by_command(tree, tmp_path)
    assert values_of(lines_of(folder)) == wanted
    assert {path.name: path.read_bytes() for path in (folder / "samples").iterdir()} == grids
    assert all(line["time"] > 1.7e9 for line in lines_of(folder))


def test_a_value_that_is_no_number_leaves_the_file_readable(tmp_path):
    history = History(tmp_path / "run", 0)
    history.metrics(1, {"a": float("nan"), "b": float("inf"), "c": 2.0})
    assert values_of(lines_of(tmp_path / "run")) == [(1, {"a": None, "b": None, "c": 2.0})]


def test_only_the_first_process_of_torchrun_keeps_anything(recipe, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    run, shown = open_run(loading.parse_recipe(recipe())), Recorded()
    with record_history(run, shown) as sink:
        assert sink is shown


def test_a_run_without_ray_goes_to_the_store_that_is_named(recipe, tmp_path, empty_store):
    """MLflow has the metrics that the folder would have, the grid as an artifact, and a finished run."""
    shutil.copy(empty_store, tmp_path / "store.db")
    uri = f"sqlite:///{tmp_path / 'store.db'}"
    tree = recipe(train__length__steps=4, checkpoint_every=2, **SAMPLED)
    by_command(tree, tmp_path, f"tracking.uri={uri}")
    client = connect_client(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("raysde").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["train.batch"] == "16"
    history = {each.step: each.value for each in client.get_metric_history(run.info.run_id, "train/loss")}
    assert not (tmp_path / "runs" / "small" / "metrics.jsonl").exists()
    by_command({**tree, "storage": str(tmp_path / "other")}, tmp_path)
    wanted = {
        line["step"]: line["train/loss"] for line in lines_of(tmp_path / "other" / "small") if "train/loss" in line
    }
    assert history == pytest.approx(wanted)
    assert list(history) == [1, 2, 3, 4]
    grids = [Path(each.path).name for each in client.list_artifacts(run.info.run_id, "samples")]
    assert grids == ["grid-0000002.png", "grid-0000004.png"]
    failing = {**tree, "name": "failing", "train": {**tree["train"], "lr": 1e30, "clip": 0.0}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(failing))
    assert main(["train", str(tmp_path / "recipe.yaml"), "--no-ray", f"tracking.uri={uri}"]) == 1
    runs = client.search_runs([run.info.experiment_id])
    assert {each.info.run_name: each.info.status for each in runs} == {"small": "FINISHED", "failing": "FAILED"}


@pytest.fixture
def uri(tmp_path, empty_store) -> str:
    shutil.copy(empty_store, tmp_path / "store.db")
    return f"sqlite:///{tmp_path / 'store.db'}"


def runs_of(uri: str) -> list:
    """Return the MLflow runs of the experiment, the oldest first."""
    client = connect_client(uri)
    return client.search_runs([client.get_experiment_by_name("raysde").experiment_id], order_by=["start_time ASC"])


SHORT = {"train__length__steps": 2, "checkpoint_every": 1, "sampling__every": 0, "text": None}


def test_a_run_whose_folder_was_removed_is_another_in_mlflow(recipe, tmp_path, uri):
    """Otherwise the old MLflow run would get metrics of another recipe, and lose those of steps that it already has."""
    tree = recipe(**SHORT)
    by_command(tree, tmp_path, f"tracking.uri={uri}")
    (old,) = runs_of(uri)
    shutil.rmtree(tmp_path / "runs" / "small")
    by_command(tree, tmp_path, f"tracking.uri={uri}", "train.lr=2e-3", "train.length.steps=1")
    kept, new = runs_of(uri)
    assert (kept.info.run_id, kept.data.params["train.lr"], kept.data.metrics) == (
        old.info.run_id, "0.001", old.data.metrics,
    )  # fmt: skip
    assert (new.data.params["train.lr"], new.data.metrics["train/images"]) == ("0.002", 16.0)
    shutil.rmtree(tmp_path / "runs" / "small" / "step_000000001")
    by_command(tree, tmp_path, f"tracking.uri={uri}", "train.lr=2e-3", "train.length.steps=1")
    assert len(runs_of(uri)) == 3


def test_a_run_of_ray_goes_on_without_ray_as_the_same(recipe, tmp_path, uri):
    """The driver settles the word as in :mod:`raysde.cluster.job`."""
    tree = recipe(**SHORT)
    run = open_run(loading.parse_recipe({**tree, "tracking": {"uri": uri}}))
    run_id = open_tracking_run(run, connect_client(uri), uri, settle_run_word(run))
    by_command(tree, tmp_path, f"tracking.uri={uri}")
    by_command(tree, tmp_path, f"tracking.uri={uri}", "train.length.steps=4")
    (found,) = runs_of(uri)
    assert (found.info.run_id, found.info.status, found.data.metrics["train/images"]) == (run_id, "FINISHED", 64.0)


def test_a_run_that_begins_without_a_store_is_no_older_one_of_its_name(recipe, tmp_path, uri):
    """A folder with a word does not match an older MLflow run without a word, which is found by name alone."""
    tree = recipe(**SHORT)
    run = open_run(loading.parse_recipe(tree))
    old = open_tracking_run(run, connect_client(uri), uri, "")
    by_command(tree, tmp_path)
    by_command(tree, tmp_path, f"tracking.uri={uri}", "train.length.steps=4")
    assert [(each.info.run_id == old, each.data.metrics.get("train/images")) for each in runs_of(uri)] == [
        (True, None), (False, 64.0),
    ]  # fmt: skip


def test_a_run_that_cannot_go_on_is_refused_before_mlflow_hears_of_it(recipe, tmp_path, uri, capsys):
    tree = recipe(**SHORT)
    by_command(tree, tmp_path, f"tracking.uri={uri}")
    command = ["train", str(tmp_path / "recipe.yaml"), "--no-ray", f"tracking.uri={uri}"]
    assert main([*command, "train.lr=2e-3"]) == 2
    assert "choose another name to start anew" in capsys.readouterr().err
    assert main([*command, "storage=s3://bucket/runs"]) == 2
    assert "not a local folder" in capsys.readouterr().err
    assert [each.info.status for each in runs_of(uri)] == ["FINISHED"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, SIGTERMED)])
def test_a_run_that_somebody_ended_is_killed_in_mlflow(recipe, tmp_path, uri, capsys, monkeypatch, number, status):
    """It is not marked as failed, as on Ray, because it can resume; the message names the step."""

    def ended(*given):
        take_step(*given)
        signal.raise_signal(number)

    take_step = raysde.training.loop.train_step
    monkeypatch.setattr(raysde.training.loop, "train_step", ended)
    # a background process may have been started with Ctrl-C ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe(**SHORT)))
        assert main(["train", str(tmp_path / "recipe.yaml"), "--no-ray", f"tracking.uri={uri}"]) == status
    finally:
        signal.signal(signal.SIGINT, before)
    said = "raysde: run 'small' was interrupted; the same command goes on from its checkpoint at step 1"
    assert capsys.readouterr().err.splitlines()[-1] == said
    assert [each.info.status for each in runs_of(uri)] == ["KILLED"]
