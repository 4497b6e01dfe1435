"""What a run without Ray leaves behind: metrics and grids in its folder, or in MLflow."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from raysde import checkpoint, config
from raysde.cli import main
from raysde.history import History, recorded
from raysde.local import train_here
from raysde.run import open_run
from raysde.tracking import client_for
from tests.conftest import Recorded

SAMPLED = {"sampling__every": 2, "sampling__count": 2, "sampling__steps": 2, "validation__every": 3,
           "validation__rows": 8, "text": None}  # fmt: skip


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def told(lines) -> list[tuple]:
    """Metrics that do not depend on the clock."""
    timed = ("time", "train/images_per_second", "train/data_wait")
    return [
        (line["step"], {key: value for key, value in line.items() if key not in ("step", *timed)}) for line in lines
    ]


def by_command(tree: dict, tmp_path: Path, *overrides: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    assert main(["train", str(path), "--no-ray", *overrides]) == 0


def test_a_run_without_ray_keeps_its_history(recipe, tmp_path):
    """All that the loop says, in its order, also over an end of the process that lost steps; and the grids it drew."""
    tree = recipe(train__length__steps=8, checkpoint_every=3, **SAMPLED)
    sink = Recorded()
    train_here(open_run(config.parse({**tree, "storage": str(tmp_path / "other")})), sink)
    wanted = told([{"step": step, **values} for step, values in sink.values])
    by_command(tree, tmp_path)
    folder = tmp_path / "runs" / "small"
    assert told(lines_of(folder)) == wanted
    grids = {path.name: path.read_bytes() for path in (folder / "samples").iterdir()}
    assert sorted(grids) == [f"grid-{step:09d}.png" for step in (2, 4, 6, 8)]
    picture = np.asarray(Image.open(folder / "samples" / "grid-000000008.png").convert("L"))
    images = checkpoint.load_model(checkpoint.newest(folder)).sample(n=2, steps=2).images
    assert np.array_equal(picture[1:65:8, 1:65:8], images[0, 0].numpy())
    # killed after step 7 of which nothing but the checkpoint of step 6, a torn line and a late grid are left
    shutil.rmtree(folder / "step_000000008")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "train/lo')
    (folder / "samples" / "grid-000000007.png").write_bytes(b"")
    by_command(tree, tmp_path)
    assert told(lines_of(folder)) == wanted
    assert {path.name: path.read_bytes() for path in (folder / "samples").iterdir()} == grids
    assert all(line["time"] > 1.7e9 for line in lines_of(folder))


def test_a_value_that_is_no_number_leaves_the_file_readable(tmp_path):
    history = History(tmp_path / "run", 0)
    history.metrics(1, {"a": float("nan"), "b": float("inf"), "c": 2.0})
    assert told(lines_of(tmp_path / "run")) == [(1, {"a": None, "b": None, "c": 2.0})]


def test_only_the_first_process_of_torchrun_keeps_anything(recipe, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    run, shown = open_run(config.parse(recipe())), Recorded()
    with recorded(run, shown) as sink:
        assert sink is shown


def test_a_run_without_ray_goes_to_the_store_that_is_named(recipe, tmp_path, empty_store):
    """Metrics as they are in the folder otherwise, the grid as an artifact, and a run that is finished."""
    shutil.copy(empty_store, tmp_path / "store.db")
    uri = f"sqlite:///{tmp_path / 'store.db'}"
    tree = recipe(train__length__steps=4, checkpoint_every=2, **SAMPLED)
    by_command(tree, tmp_path, f"tracking.uri={uri}")
    client = client_for(uri)
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
