"""Sampler settings measured by Ray Tune: the metrics equal those of one process, and finished measurements are kept."""

import csv
import json

import pytest
import torch

from raysde.cli import main
from raysde.cluster.tune_sampler import measure_on_ray
from raysde.config import loading
from raysde.registry import load
from raysde.runs.local import train_here
from raysde.runs.run import open_run
from raysde.tuning.sampler.space import Candidate
from raysde.tuning.sampler.study import Study
from tests.support.training import small_recipe

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]

SPACE = ["ema_std=none,0.15", "solver=unipc", "steps=2,4", "guidance=1,2"]


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    """Return the folder of a run of 60 steps with two power-function EMA profiles."""
    storage = tmp_path_factory.mktemp("runs")
    changes = {
        "train__length__steps": 60,
        "train__lr": 3e-3,
        "train__ema__profiles": [0.1, 0.2],
        "checkpoint_every": 20,
    }
    train_here(
        open_run(loading.parse_recipe(small_recipe(digits, storage, text=None, class_conditional=True, **changes))),
        None,
    )
    return storage / "small"


def test_a_study_from_a_run_to_a_model_that_draws_by_the_winner(run, digits, tmp_path, capsys):
    """An interrupted study on two workers measures only the missing settings, and gives the same result."""
    out = tmp_path / "out"
    command = ["tune-sampler", str(run), *SPACE, "--data", digits.path, "--features", "judge", "--metric", "kid", "--samples",
               "90", "--rounds", "2", "--cache", str(tmp_path / "cache"), "--out", str(out)]  # fmt: skip
    assert main(command) == 0
    table = list(csv.DictReader((out / "settings.csv").open()))
    assert [row["samples"] for row in table] == ["90"] * 3 + ["30"] * 5
    own = load(out / "model")
    (won,) = [row for row in table if row["won"]]
    assert own.spec.generation == {"solver": "unipc", "steps": int(won["steps"]), "guidance": float(won["guidance"])}
    base = out / "models" / ("ema-0.15" if won["ema_std"] else "own")
    plain = load(base).sample(labels=[3, 4], seed=1, **own.spec.generation)
    assert torch.equal(own.sample(labels=[3, 4], seed=1).images, plain.images)
    # the same metrics without Ray
    models = {None: str(out / "models" / "own"), 0.15: str(out / "models" / "ema-0.15")}
    study = Study(models, digits.path, "kid", "judge", str(tmp_path / "cache"), device="cpu")
    row = table[0]
    drawing = {"solver": "unipc", "steps": int(row["steps"]), "guidance": float(row["guidance"])}
    candidate = Candidate(float(row["ema_std"]) if row["ema_std"] else None, drawing, 0.0)
    assert study.outcome(candidate, 90).figure.value == pytest.approx(float(row["value"]), rel=1e-4, abs=1e-7)
    # a crash in the last round: one metric and the influences of another are missing, the others are not measured again
    files = sorted((out / "trials").glob("*.json"))
    assert len(files) == 8 + 3
    lost, torn = [file for file in files if json.loads(file.read_text())["samples"] == 90][:2]
    before, found = {file: file.stat().st_mtime_ns for file in files if file not in (lost, torn)}, lost.read_text()
    lost.unlink()
    torn.with_suffix(".safetensors").unlink()
    (out / "model").rename(tmp_path / "first")
    first = (out / "settings.csv").read_text()
    capsys.readouterr()
    assert main(command) == 0
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert torn.with_suffix(".safetensors").exists()
    again = json.loads(lost.read_text())["figure"]
    assert again["value"] == pytest.approx(json.loads(found)["figure"]["value"], rel=1e-4, abs=1e-7)
    assert [row.split(",")[:4] for row in (out / "settings.csv").read_text().splitlines()] == [
        row.split(",")[:4] for row in first.splitlines()
    ]
    assert load(out / "model").spec.generation == own.spec.generation
    assert not (out / "tune").exists()


def test_what_a_trial_cannot_do_is_a_sentence(run, digits, tmp_path):
    study = Study({None: str(tmp_path)}, digits.path, "kid", "judge", str(tmp_path / "cache"), device="cpu")
    measure = measure_on_ray(study, tmp_path)
    study.models[None] = str(run / "step_000000060")
    candidate = Candidate(None, {"solver": "unipc", "steps": 2, "guidance": 2.0}, 4.0)
    (tmp_path / "trials").mkdir()
    with pytest.raises(ValueError, match="2 drawn images are too few"):
        measure([candidate], 2)
    assert not list((tmp_path / "trials").iterdir())
