"""A job on Ray whose loss becomes NaN: it returns to its checkpoint, and reads on behind the batches since then."""

import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from raysde import tracking
from raysde.checkpoints import checkpoint
from raysde.cluster.job import train_job
from raysde.config import loading
from raysde.runs.build import new_state
from raysde.runs.local import train_here
from raysde.runs.run import open_run
from tests.support.training import same_tensors, small_recipe

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster", "one_thread")]


def test_a_job_returns_to_its_checkpoint(digits, tmp_path):
    """The weights are those of the bare loop, and the rows those of the plan without the batches passed over."""
    network = {"kind": "external", "factory": "tests.cluster.networks:Spoiled", "kwargs": {"bad": [7]}}
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    changes = {"network": network, "text": None, "train__on_bad_step": "rollback", "train__length__steps": 12,
               "checkpoint_every": 4, "data__block_steps": 2, "resources__cpus_per_worker": 1}  # fmt: skip
    tree = small_recipe(digits, tmp_path / "runs", **changes, tracking__uri=uri)
    done = train_job(loading.parse_recipe(tree))
    run = open_run(loading.parse_recipe(small_recipe(digits, tmp_path / "bare", **changes)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train_here(run, None)
    found = checkpoint.read_description(Path(done.checkpoint))
    assert (found.step, found.position, found.bad.left_out) == (12, 15, [(4, 7)])
    bare = tmp_path / "bare" / "small" / checkpoint.checkpoint_name(12)
    for name in ("weights", "ema", "optimizer"):
        assert same_tensors(*(load_file(path / f"{name}.safetensors") for path in (Path(done.checkpoint), bare)))
    expected = new_state(run, torch.device("cpu"))
    for position in (*range(4), *range(7, 15)):
        expected.note_rows(run.feed.rows[run.plan.rows_of(position, 0)])
    assert found.state["rows_digest"] == expected.rows_digest
    client = tracking.connect_client(uri)
    assert client.get_run(done.run_id).data.params["train.on_bad_step"] == "rollback"
    counted = client.get_metric_history(done.run_id, "train/rollbacks")
    assert {metric.value for metric in counted} == {1.0}
    assert max(metric.step for metric in counted) == 12
    described = client.get_model_version("small", "1").description
    assert "Bad steps: 0 skipped, 1 return to a checkpoint, which passed over the global batches 4 to 6." in described
