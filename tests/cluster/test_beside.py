"""A job on Ray that measures drawn images beside training, and whose worker is killed."""

import json
from pathlib import Path

import pytest

from raysde import tracking
from raysde.checkpoints import checkpoint
from raysde.cli import main
from raysde.cluster.job import train_job
from raysde.cluster.tune_training import tune_job
from raysde.config import loading
from raysde.data.dataset.reader import Reader
from raysde.evaluation.features import classifier
from raysde.evaluation.features.classifier import open_judge
from raysde.tuning.training.ledger import Ledger, read_definition
from raysde.tuning.training.settings import read_settings
from tests.support.training import small_recipe

METRICS = ("kid", "accuracy")


@pytest.fixture(scope="module")
def home(digits, tmp_path_factory):
    """Keep a judge, which was trained for seconds, in a home of the tests and of the cluster that starts after it."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        for name, value in (("IMAGES", 300), ("LEAST", 1), ("MOST", 2)):
            patch.setattr(classifier, name, value)
        open_judge(Reader(digits), (8, 8), folder / "raysde" / "evaluation")
        yield folder


@pytest.mark.slow
@pytest.mark.usefixtures("home", "cluster", "one_thread")
def test_a_killed_job_logs_what_evaluate_measures(digits, tmp_path):
    """The first worker dies by SIGKILL at step 5. Each step's metrics are logged once, are in its checkpoint, and are
    those of `raysde evaluate`, bit for bit. The best of all checkpoints is registered."""
    network = {"kind": "external", "factory": "tests.cluster.networks:Killed",
               "kwargs": {"at": 5, "marker": str(tmp_path / "killed")}}  # fmt: skip
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    changes = {"network": network, "text": None, "class_conditional": True, "train__lr": 3e-2,
               "train__length__steps": 8, "checkpoint_every": 4, "data__stream": "worker", "validation__rows": 24,
               "validation__metrics": list(METRICS), "validation__metrics_every": 2, "validation__where": "beside",
               "validation__delay": 3, "validation__samples": 40, "validation__reference": 50,
               "validation__features": "judge", "validation__seed": 3, "keep": {"newest": 9, "by": "val/kid"},
               "validation__sampler": {"solver": "euler", "steps": 3, "guidance": 1.5}}  # fmt: skip
    done = train_job(loading.parse_recipe(small_recipe(digits, tmp_path / "runs", **changes, tracking__uri=uri)))
    assert (tmp_path / "killed").exists()
    client = tracking.connect_client(uri)
    values = {}
    for name in METRICS:
        history = client.get_metric_history(done.run_id, f"val/{name}")
        assert sorted(each.step for each in history) == [2, 4, 6, 8]
        values[name] = {each.step: each.value for each in history}
    for step in (2, 4, 6, 8):
        folder, report = tmp_path / "runs" / "small" / checkpoint.checkpoint_name(step), tmp_path / "report.json"
        command = ["evaluate", str(folder), "--metrics", ",".join(METRICS), "--samples", "40", "--reference", "50",
                   "--features", "judge", "--seed", "3", "--solver", "euler", "--steps", "3", "--guidance", "1.5",
                   "--device", "cpu", "--allow-code", "--output", str(report)]  # fmt: skip
        assert main(command) == 0
        figures = {each["name"]: each["value"] for each in json.loads(report.read_text())["figures"]}
        stored = checkpoint.read_description(folder).state["metrics"]
        for name in METRICS:
            assert figures[name] == values[name][step] == stored[f"val/{name}"]
    best = min(values["kid"], key=values["kid"].get)
    assert done.choice == f"best by val/kid, {values['kid'][best]:.5g}"
    assert Path(done.checkpoint).name == checkpoint.checkpoint_name(8)


@pytest.mark.slow
@pytest.mark.usefixtures("home", "cluster")
def test_a_sweep_ranks_by_results_of_actors(digits, tmp_path):
    """Each trial reports each result once, with the images of its step, and the last one as the last. The ledger has
    the values that the trials' checkpoints have."""
    changes = {"text": None, "class_conditional": True, "train__length__steps": 4, "checkpoint_every": 2,
               "data__stream": "worker", "validation__rows": 24, "validation__metrics": ["kid"],
               "validation__metrics_every": 2, "validation__where": "beside", "validation__samples": 16,
               "validation__reference": 50, "validation__features": "judge",
               "validation__sampler": {"solver": "euler", "steps": 2, "guidance": 1.0}}  # fmt: skip
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tree = small_recipe(digits, tmp_path / "runs", **changes, tracking__uri=uri)
    settings = read_settings(None, [], {"search": "grid", "scheduler": "fifo", "metric": "val/kid", "concurrent": 1})
    done = tune_job(tree, settings.model_copy(update={"space": {"train.lr": [1e-3, 3e-2]}}), "kids")
    folder = Path(done.csv).parent
    trials = Ledger(str(folder), read_definition(str(folder))).trials
    assert {number: trial.state for number, trial in trials.items()} == {0: "finished", 1: "finished"}
    for number, trial in trials.items():
        assert [(each.step, each.images, each.last) for each in trial.reports] == [(2, 32, False), (4, 64, True)]
        for each in trial.reports:
            kept = folder / f"kids-{number:03d}" / checkpoint.checkpoint_name(each.step)
            assert checkpoint.read_description(kept).state["metrics"]["val/kid"] == each.metrics["val/kid"]
    assert done.best.number == min(trials, key=lambda number: trials[number].value("val/kid"))
