"""A training job on Ray: killed workers, MLflow runs, the registry, and equality with the bare loop."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from raysde import registry, tracking
from raysde.checkpoints import checkpoint
from raysde.cli import main
from raysde.cluster.job import train_job
from raysde.config import loading
from raysde.runs.build import new_state
from raysde.runs.local import train_here
from raysde.runs.run import open_run
from tests.support.jobs import STEPS, job_recipe, killed_network
from tests.support.paths import ROOT
from tests.support.ranks import on_ranks, train
from tests.support.training import same_tensors

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("job")


@pytest.fixture(scope="module")
def uri(place) -> str:
    return f"sqlite:///{place / 'mlflow.db'}"


@pytest.fixture(scope="module")
def whole(digits, place, uri):
    """Return an undisturbed run."""
    network = killed_network(place, "whole", dies=False)
    return train_job(
        loading.parse_recipe(job_recipe(digits, place, uri, "whole", network=network, tracking__register_as="digits"))
    )


@pytest.fixture(scope="module")
def broken(digits, place, uri):
    """Return the same run, whose worker reads its own rows and gets SIGKILL in step 8, after the checkpoint at step
    5."""
    network = killed_network(place, "broken", dies=True)
    done = train_job(
        loading.parse_recipe(job_recipe(digits, place, uri, "broken", network=network, data__stream="worker"))
    )
    assert (place / "broken-died").exists()
    return done


def tensors(folder: Path) -> dict:
    files = sorted(folder.rglob("*.safetensors"))
    return {f"{path.relative_to(folder)}/{key}": value for path in files for key, value in load_file(path).items()}


def history(uri: str, run_id: str, key: str) -> list[tuple[int, float]]:
    metrics = tracking.connect_client(uri).get_metric_history(run_id, key)
    return sorted((metric.step, metric.value) for metric in metrics)


def test_a_killed_run_ends_with_the_same_weights(whole, broken):
    """Weights, EMA and optimizer agree bit for bit; counters and row order are equal."""
    assert same_tensors(tensors(whole.checkpoint), tensors(broken.checkpoint))
    first, second = (checkpoint.read_description(done.checkpoint).state for done in (whole, broken))
    assert first == second
    assert first["step"] == STEPS


def test_no_more_checkpoints_are_kept_than_asked_for(whole, broken):
    for done in (whole, broken):
        folder = done.checkpoint.parent
        assert [path.name for path in folder.iterdir() if "step_" in path.name] == [checkpoint.checkpoint_name(STEPS)]


def test_the_rows_are_those_of_the_plan(broken, digits, place, uri):
    run = open_run(
        loading.parse_recipe(
            job_recipe(digits, place, uri, "broken", network=killed_network(place, "broken", dies=True))
        )
    )
    expected = new_state(run, torch.device("cpu"))
    for step in range(STEPS):
        expected.note_rows(run.feed.rows[run.plan.rows_of(step, 0)])
    assert checkpoint.read_description(broken.checkpoint).state["rows_digest"] == expected.rows_digest


@pytest.mark.parametrize("key", ["train/loss", "train/grad_norm", "train/lr", "val/loss", "val/loss_snr_-1_to_1"])
def test_every_metric_is_logged_once(whole, broken, uri, key):
    """The steps between checkpoint and kill ran twice, and are logged once, with the same values."""
    first, second = history(uri, whole.run_id, key), history(uri, broken.run_id, key)
    assert first == second
    steps = [step for step, _ in first]
    assert steps == ([5, 10] if key.startswith("val") else list(range(1, STEPS + 1)))


def test_a_run_is_one_mlflow_run(whole, broken, uri):
    client = tracking.connect_client(uri)
    experiment = client.get_experiment_by_name("raysde").experiment_id
    runs = {
        run.info.run_id: run for run in client.search_runs([experiment]) if run.info.run_name in ("whole", "broken")
    }
    assert set(runs) == {whole.run_id, broken.run_id}
    run = runs[broken.run_id]
    assert run.info.status == "FINISHED"
    assert run.data.params["train.lr"] == "0.001"
    assert run.data.params["sde.kind"] == "vp"
    pictures = [item.path for item in client.list_artifacts(broken.run_id, "samples")]
    assert pictures == ["samples/grid-0000005.png", "samples/grid-0000010.png"]
    assert "train/images_per_second" in run.data.metrics
    noted = {f"raysde.startup.{key}" for key in ("imports", "ray", "worker_group", "first_batch")}
    assert noted | {"raysde.seconds.loop"} <= set(run.data.tags)
    assert not any(key.startswith(("startup", "time")) for key in run.data.metrics)


def test_ray_computes_what_the_bare_loop_computes(whole, digits, place, uri):
    """The same recipe without Ray ends with the same bits."""
    network = killed_network(place, "whole", dies=False)
    tree = job_recipe(digits, place, uri, "whole", network=network, storage=str(place / "bare"))
    train_here(open_run(loading.parse_recipe(tree)), None)
    assert same_tensors(
        tensors(whole.checkpoint), tensors(place / "bare" / "whole" / checkpoint.checkpoint_name(STEPS))
    )


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_two_workers_and_a_kill(digits, place, uri, strategy):
    """Two Ray workers share each global batch, and under fsdp the weights; one is killed. The result equals two bare
    gloo ranks bit for bit, and a sharded checkpoint has the file of each worker."""
    name = f"pair-{strategy}"
    shared = {"resources__workers": 2, "train__microbatch": 4, "data__block_steps": 2, "name": name}
    network = killed_network(place, name, dies=True)
    network["kwargs"]["at"] = 16  # two microbatches per step and one priming pass: in the middle of step 8
    tree = job_recipe(digits, place, uri, resources__strategy=strategy, **{**shared, "network": network})
    done = train_job(loading.parse_recipe(tree))
    assert (place / f"{name}-died").exists()
    bare = {**tree, "storage": str(place / "bare")}
    on_ranks(2, train, bare)
    twin = place / "bare" / name / checkpoint.checkpoint_name(STEPS)
    assert len(list(twin.glob("weights/*"))) == (2 if strategy == "fsdp" else 0)
    assert same_tensors(tensors(done.checkpoint), tensors(twin))
    assert checkpoint.read_description(done.checkpoint).state == checkpoint.read_description(twin).state


def test_submitting_a_finished_run_again_changes_nothing(whole, digits, place, uri):
    network = killed_network(place, "whole", dies=False)
    tree = job_recipe(digits, place, uri, "whole", network=network, tracking__register_as="digits")
    again = train_job(loading.parse_recipe(tree))
    assert (again.run_id, again.checkpoint, again.model) == (whole.run_id, whole.checkpoint, whole.model)
    assert again.seconds == 0.0
    assert [step for step, _ in history(uri, whole.run_id, "train/loss")] == list(range(1, STEPS + 1))


def test_a_run_that_diverges_fails_at_once(digits, place, uri):
    """The loss overflows: one sentence with the step, no restart, and the MLflow run is marked as failed."""
    tree = job_recipe(
        digits, place, uri, "diverged", train__lr=1e30, train__clip=0.0, log_every=5, sampling={"every": 0}
    )
    with pytest.raises(RuntimeError, match=r"run 'diverged' failed: the loss is (nan|inf) at step \d"):
        train_job(loading.parse_recipe(tree))
    client = tracking.connect_client(uri)
    experiment = client.get_experiment_by_name("raysde").experiment_id
    (run,) = client.search_runs([experiment], filter_string="tags.`raysde.runs.run` = 'diverged'")
    assert run.info.status == "FAILED"


@pytest.fixture(scope="module")
def registered(whole):
    """Return the undisturbed run, registered as digits; its network is the tests' own code."""
    return whole


def command(*arguments: str) -> subprocess.CompletedProcess:
    """Run raysde in a fresh process."""
    return subprocess.run(
        [sys.executable, "-m", "raysde.cli", *arguments], capture_output=True, text=True, timeout=300, cwd=ROOT
    )


def test_the_registered_model_draws_what_the_checkpoint_draws(registered, uri, tmp_path):
    """A fresh process that knows only models:/digits@candidate writes the same PNG files to the byte."""
    assert registered.model == "models:/digits/1"
    shared = [
        "--prompt",
        "a handwritten seven",
        "--prompt",
        "two",
        "-n",
        "5",
        "--seed",
        "3",
        "--steps",
        "4",
        "--allow-code",
    ]
    places = [["--out", str(tmp_path / out), "--tracking-uri", uri] for out in "abc"]
    ended = command("sample", "models:/digits@candidate", *shared, *places[0])
    assert ended.returncode == 0, ended.stderr
    assert main(["sample", str(registered.checkpoint), *shared, *places[1]]) == 0
    assert main(["sample", registered.run_id, *shared, *places[2]]) == 0
    names = [f"image-{i:03d}.png" for i in range(5)] + ["grid.png"]
    for name in names:
        assert len({(tmp_path / out / name).read_bytes() for out in "abc"}) == 1
    assert len({(tmp_path / "a" / name).read_bytes() for name in names}) == 6


def test_python_loads_by_name(registered, uri, monkeypatch):
    import raysde

    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    model = raysde.load("models:/digits@candidate", allow_code=True)
    assert model.sample(prompts=["two"], steps=2).images.shape == (1, 1, 8, 8)
    assert model.spec.sde.kind == "vp"


def test_the_registered_files_hold_no_optimiser_and_no_pickle(registered, uri):
    folder = registry.resolve_source("models:/digits/1", uri)
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    assert {"MLmodel", "checkpoint.json", "ema.safetensors", "tokenizer.json"} <= names
    assert "optimizer.safetensors" not in names
    assert {Path(name).suffix for name in names} <= {".json", ".safetensors", ".txt", ""}


def test_aliases_move(registered, uri):
    forced = ["--force", "--reason", "there is no other"]
    assert main(["promote", "models:/digits@candidate", *forced, "--tracking-uri", uri]) == 0
    assert registry.resolve_source("models:/digits@champion", uri).exists()


@pytest.mark.parametrize(
    ("source", "culprit"),
    [
        ("models:/letters@candidate", "no model named 'letters'"),
        ("models:/digits@king", "no alias 'king'"),
        ("models:/digits/9", "no version 9"),
        ("models:/digits", "models:/NAME@ALIAS"),
        ("0" * 32, "no run 0000"),
        ("nowhere", "neither a folder nor a registered model"),
    ],
)
def test_models_that_are_not_there_are_named(registered, uri, source, culprit):
    with pytest.raises(ValueError, match=culprit):
        registry.resolve_source(source, uri)


def test_the_flat_recipe_is_the_same_everywhere(registered, uri):
    """MLflow's params, the checkpoint and the recipe's dotted paths agree."""
    recipe = checkpoint.read_description(registered.checkpoint).recipe
    params = tracking.connect_client(uri).get_run(registered.run_id).data.params
    assert params == {key: str(value) for key, value in recipe.items()}
    assert json.loads(json.dumps(recipe)) == recipe
