"""Sweeps on real Ray: Tune starts and stops trials of Ray Train, and a killed sweep resumes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray import tune
from ray.tune.error import TuneError

from raysde import tracking
from raysde.checkpoints import checkpoint
from raysde.cli import main
from raysde.cluster.reporting import report_measurement
from raysde.cluster.resources import Cluster, Share, survey_cluster
from raysde.cluster.train import run_worker_group
from raysde.cluster.tune_callbacks import STOPPED, Children, Judged
from raysde.cluster.tune_training import assign_shares, conclude_sweep, run_trials, sweep_definition, tune_job
from raysde.config import loading
from raysde.distributed.world import World
from raysde.io.errors import Interrupted
from raysde.runs.run import open_run
from raysde.tuning.training.asha import Halving
from raysde.tuning.training.ledger import Ledger
from raysde.tuning.training.search import plan_trials
from raysde.tuning.training.settings import read_settings
from raysde.tuning.training.space import read_space
from raysde.tuning.training.sweep import Sweep
from tests.support.digits import write_digit_shards
from tests.support.paths import ROOT
from tests.support.training import small_recipe

LRS = [1e-3, 1e30, 1e-2]


def tree_of(digits, place: Path, **changes) -> dict:
    settings = {
        "tracking__uri": f"sqlite:///{place / 'mlflow.db'}", "validation__rows": 24, "validation__every": 5,
        "train__length__steps": 10, "train__clip": 0.0, "data__stream": "worker", "sampling": {"every": 5, "count": 4},
    }  # fmt: skip
    return small_recipe(digits, place / "runs", **{**settings, **changes})


def children(place: Path, parent: str) -> dict:
    """Return the child runs of a sweep's MLflow run, by name."""
    client = tracking.connect_client(f"sqlite:///{place / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("raysde").experiment_id
    found = client.search_runs([experiment], filter_string=f"tags.mlflow.parentRunId = '{parent}'")
    assert len({run.info.run_name for run in found}) == len(found)
    return {run.info.run_name: run for run in found}


def history(place: Path, run_id: str, key: str) -> list[tuple[int, float]]:
    metrics = tracking.connect_client(f"sqlite:///{place / 'mlflow.db'}").get_metric_history(run_id, key)
    return sorted((metric.step, metric.value) for metric in metrics)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def swept(cluster, digits, place):
    """Return a sweep of three trials, of which the second diverges."""
    tree = tree_of(digits, place)
    settings = read_settings(None, [], {"search": "grid", "scheduler": "fifo"})
    settings = settings.model_copy(update={"space": {"train.lr": LRS}})
    return tune_job(tree, settings, "lrs"), tree, settings


def test_a_failed_trial_does_not_end_a_sweep(swept):
    lines = swept[0].table.splitlines()
    assert [line.split()[-2] for line in lines[1:4]] == ["finished", "finished", "failed"]
    assert "trial 001 failed: run 'lrs-001' failed: the loss is" in lines[4]
    assert swept[0].best.number in (0, 2)


def test_every_trial_is_a_run_below_the_sweeps(swept, place):
    done, *_ = swept
    runs = children(place, done.run_id)
    assert {name: run.info.status for name, run in runs.items()} == {
        "lrs-000": "FINISHED", "lrs-001": "FAILED", "lrs-002": "FINISHED",
    }  # fmt: skip
    assert [run.data.params["train.lr"] for _, run in sorted(runs.items())] == [str(lr) for lr in LRS]
    client = tracking.connect_client(done.tracking_uri)
    assert client.get_run(done.run_id).info.status == "FINISHED"
    files = {item.path for item in client.list_artifacts(done.run_id)}
    assert {"best.yaml", "ranking.csv", "parallel-coordinates.png", "error-by-log-snr.png"} <= files
    assert not client.search_registered_models()


def test_the_ranking_holds_what_the_trials_logged(swept, place):
    done, *_ = swept
    runs = children(place, done.run_id)
    for number, trial in Ledger(
        str(Path(done.csv).parent), json.loads((Path(done.csv).parent / "sweep.json").read_text())
    ).trials.items():
        if trial.state == "finished":
            logged = history(place, runs[f"lrs-{number:03d}"].info.run_id, "val/loss")
            assert [(report.step, report.metrics["val/loss"]) for report in trial.reports] == logged
            assert [step for step, _ in logged] == [5, 10]


def test_the_best_recipe_is_that_of_the_best_checkpoint(swept):
    done, *_ = swept
    recipe, kept = loading.load_recipe(done.recipe), checkpoint.read_description(done.checkpoint)
    differ = {key for key, value in recipe.flat().items() if kept.recipe.get(key) != value}
    assert differ <= {"name", "storage", "sampling.every", "resources.cpus_per_worker", "resources.gpu"}
    assert recipe.train.lr == LRS[done.best.number]
    assert recipe.sampling.every == 5


def test_a_whole_sweep_again_changes_nothing(swept, place):
    done, tree, settings = swept
    again = tune_job(tree, settings, "lrs")
    assert (again.table, again.run_id) == (done.table, done.run_id)
    assert len(children(place, done.run_id)) == 3


@pytest.mark.slow
def test_a_metric_that_nobody_reports_ends_it_at_the_first_report(swept, digits, place):
    _, tree, settings = swept
    settings = settings.model_copy(update={"metric": "val/fid", "space": {"train.lr": [1e-3, 1e-2, 2e-3]}})
    with pytest.raises(ValueError, match="'val/fid'; there are val/denoising"):
        tune_job(tree, settings, "unranked")
    folder = place / "runs" / "unranked"
    trials = Ledger(str(folder), json.loads((folder / "sweep.json").read_text())).trials.values()
    assert sum(bool(trial.reports) for trial in trials) <= 1
    assert not any(trial.state == "finished" for trial in trials)


@pytest.mark.parametrize(
    ("cluster", "changes", "trials", "given", "expected"),
    [
        (Cluster(3), {}, 16, None, (2, Share(1, False))),  # this machine's two cores
        (Cluster(2), {}, 16, None, (1, Share(1, False))),
        (Cluster(3), {}, 16, 1, (1, Share(2, False))),
        (Cluster(17), {}, 4, None, (4, Share(4, False))),
        (Cluster(17), {"resources__workers": 2}, 16, None, (8, Share(1, False))),
        (Cluster(17), {"resources__cpus_per_worker": 4}, 16, None, (4, Share(4, False))),
        (Cluster(34, 8, nodes=2), {}, 16, None, (8, Share(4, True))),
        (Cluster(34, 8, nodes=2), {"resources__workers": 4}, 16, None, (2, Share(4, True))),
        (Cluster(18, 8, nodes=2), {}, 16, None, (8, Share(2, True))),
        (Cluster(5, 1), {"resources__gpu": False}, 16, None, (4, Share(1, False))),
        (Cluster(2, joined=True), {"resources__gpu": True}, 16, 3, (3, Share(4, True))),  # for GPUs that may be added
    ],
)
def test_a_cluster_is_shared_out(digits, tmp_path, cluster, changes, trials, given, expected):
    recipe = loading.parse_recipe(tree_of(digits, tmp_path, **changes))
    assert assign_shares(recipe, cluster, trials, given) == expected


def test_too_few_gpus_are_named(digits, tmp_path):
    with pytest.raises(ValueError, match=r"resources\.gpu.*0 GPUs"):
        assign_shares(loading.parse_recipe(tree_of(digits, tmp_path, resources__gpu=True)), Cluster(4), 4, None)


@pytest.mark.parametrize(
    ("changes", "given", "said"),
    [
        ({}, 3, "3 workers at once with 1 CPUs each need 3 CPUs, the cluster has 2"),
        ({"resources__workers": 4}, None, "4 workers at once with 1 CPUs each need 4"),
        ({"resources__cpus_per_worker": 3}, None, "1 workers at once with 3 CPUs each need 3"),
    ],
)
def test_workers_that_leave_data_tasks_no_cpu_are_refused(digits, tmp_path, capsys, changes, given, said):
    """This machine refuses them; on a joined cluster, which may grow, the user sees what the workers wait for."""
    recipe = loading.parse_recipe(tree_of(digits, tmp_path, **changes))
    with pytest.raises(ValueError, match=said):
        assign_shares(recipe, Cluster(3), 16, given)
    assert assign_shares(recipe, Cluster(2, joined=True), 16, given)[0] == (given or 1)
    assert said in capsys.readouterr().out


def test_what_a_sweep_compares_by_must_not_change_on_another_cluster(digits, tmp_path):
    """More workers would change the microbatches, unless the recipe sets their size; the location of the data may
    change."""
    settings = read_settings(None, ["train.lr=[1e-3,1e-2]"], {})
    moved = write_digit_shards(tmp_path / "moved")
    other = write_digit_shards(tmp_path / "other", rows=150)

    def opened(folder: str, data, **changes) -> Ledger:
        run = open_run(loading.parse_recipe(tree_of(data, tmp_path, **changes)))
        return Ledger(str(tmp_path / folder), sweep_definition(run, settings))

    for _ in range(2):
        opened("sweep", digits)
    opened("sweep", moved)
    with pytest.raises(ValueError, match=r"resources\.workers=1, now it is 2"):
        opened("sweep", digits, resources__workers=2)
    with pytest.raises(ValueError, match=f"data fingerprint=.*{digits.fingerprint}.* now it is .*{other.fingerprint}"):
        opened("sweep", other)
    for workers in (1, 2):
        opened("said", digits, train__microbatch=8, resources__workers=workers)
    with pytest.raises(ValueError, match=r"train\.microbatch=8, now it is 16"):
        opened("said", digits, train__microbatch=16)


class Full(SimpleNamespace):
    """A stand-in for Tune in which the first write to the ledger fails."""

    def __init__(self, trainable, **given) -> None:
        Full.asked = given["tune_config"]

    def fit(self) -> None:
        raise TuneError("Traceback (most recent call last):\n  ...\nOSError: [Errno 28] No space left on device\n")


def sweep_of(digits, place: Path, count: int, **changes) -> tuple[Sweep, Children]:
    """Return a sweep of learning rates and its trials, with a store beside it."""
    tree, space = tree_of(digits, place, **changes), read_space({"train.lr": [1e-3, 2e-3, 3e-3, 4e-3]})
    recipe, folder = loading.parse_recipe({**tree, "name": "lrs"}), str(place / "runs" / "lrs")
    plan = plan_trials(space, "grid", 0, count)
    sweep = Sweep(space, Ledger(folder, {}), count=count, seed=0, metric="m", plan=plan, halving=None)
    return sweep, Children(None, "sqlite:///none", recipe, tree, space, "")


def test_a_ledger_that_cannot_be_written_ends_in_a_sentence(monkeypatch, digits, tmp_path):
    """Four trials share 16 CPUs of the live node, also after three of them have ended."""
    sweep, children = sweep_of(digits, tmp_path, 4)
    for number in range(3):
        sweep.next()
        sweep.end(number, "finished")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 17.0})
    monkeypatch.setattr(
        ray, "nodes", lambda: [{"Alive": alive, "Resources": {"CPU": 17.0}} for alive in (True, False, False)]
    )
    monkeypatch.setattr("raysde.cluster.tune_training.open_mailbox", lambda: None)
    monkeypatch.setattr(tune, "Tuner", Full)
    said = r"^the sweep was interrupted: OSError: \[Errno 28\] No space left on device; the same command resumes it$"
    with pytest.raises(RuntimeError, match=said):
        run_trials(sweep, children, *assign_shares(children.recipe, survey_cluster(), sweep.count, None))
    assert (Full.asked.max_concurrent_trials, Full.asked.search_alg.share) == (4, Share(4, False))


def test_nodes_that_died_keep_no_cpu_for_data_tasks(monkeypatch, digits, tmp_path):
    class Asked(Exception):
        pass

    def trainer(worker, **given):
        raise Asked(given["scaling_config"].resources_per_worker)

    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 5.0})
    monkeypatch.setattr(
        ray, "nodes", lambda: [{"Alive": alive, "Resources": {"CPU": 5.0}} for alive in (True, False, False)]
    )
    monkeypatch.setattr("raysde.cluster.train.TorchTrainer", trainer)
    with pytest.raises(Asked, match=r"\{'CPU': 4\}"):
        run_worker_group(
            open_run(loading.parse_recipe(tree_of(digits, tmp_path))), tracking_uri="", run_id="r", started=0.0
        )


@pytest.mark.parametrize(("checkpoints", "validations", "expected"), [(5, 5, 5), (6, 5, 10), (3, 5, 5), (0, 5, 0)])
def test_trials_keep_checkpoints_at_validations(digits, tmp_path, checkpoints, validations, expected):
    """A trial resumed elsewhere would otherwise not repeat a validation whose result was lost."""
    changes = {"checkpoint_every": checkpoints, "validation__every": validations}
    sweep, children = sweep_of(digits, tmp_path, 1, **changes)
    assert children.recipe_of(sweep.next(), Share(1, False)).checkpoint_every == expected


def test_a_worker_says_which_validation_is_the_last():
    sent, state = [], SimpleNamespace(step=5, num_images=40, metrics={})
    slot = SimpleNamespace(send=sent.append)
    validate = report_measurement(lambda model: {"m": 1.0}, state, World(), slot, 10)
    validate(None)
    state.step, state.num_images = 10, 80
    validate(None)
    assert sent == [
        {"step": 5, "images": 40, "metrics": {"m": 1.0}, "last": False},
        {"step": 10, "images": 80, "metrics": {"m": 1.0}, "last": True},
    ]


def test_a_sweep_that_goes_on_under_another_store_is_concluded(capsys, digits, tmp_path):
    """Trial 0 ended while the first store was in use."""
    sweep, children = sweep_of(digits, tmp_path, 2)
    uris = [f"sqlite:///{tmp_path / name / 'mlflow.db'}" for name in ("first", "second")]
    clients = [tracking.connect_client(uri) for uri in uris]
    for client, uri in zip(clients, uris, strict=True):
        trial = sweep.next()
        place = tracking.default_artifact_root(uri)
        sweep.note_run(trial.number, tracking.open_mlflow_run(client, "e", children.name(trial.number), {}, place))
        sweep.report(trial.number, 10, 80, {"m": 1.0 + trial.number})
        sweep.end(trial.number, "finished")
    parent = tracking.open_mlflow_run(clients[1], "e", "lrs", {}, None)
    children = replace(children, client=clients[1], uri=uris[1], parent=parent)
    done = conclude_sweep(sweep, children, children.tree)
    assert done.best.number == 0
    assert Path(done.csv).exists()
    assert loading.load_recipe(done.recipe).train.lr == 1e-3
    assert f"{uris[1]} does not know the runs of trials 000: " in capsys.readouterr().out
    assert [clients[1].get_run(run_id).info.status for run_id in (parent, sweep.trials[1].run_id)] == ["FINISHED"] * 2


@pytest.mark.parametrize(
    ("error", "raised", "status"),
    [
        (KeyboardInterrupt(), Interrupted, "KILLED"),
        (SystemExit(15), Interrupted, "KILLED"),
        (Interrupted("by Tune"), Interrupted, "KILLED"),
        (RuntimeError("the cluster is gone"), RuntimeError, "FAILED"),
    ],
)
def test_trials_under_way_end_with_their_sweep(monkeypatch, digits, tmp_path, error, raised, status):
    """Ended trials stay unchanged: a trial that early stopping ended is finished, with a tag."""

    def begun(sweep: Sweep, children: Children, at_once: int, share: Share) -> None:
        for number in range(3):
            trial = sweep.next()
            recipe = children.recipe_of(trial, share)
            sweep.note_run(number, children.open_run(trial, recipe))
        sweep.report(1, 10, 80, {sweep.metric: 1.0})
        for number, state in ((0, "finished"), (1, "stopped")):
            sweep.end(number, state)
            children.close_run(sweep.trials[number])
        raise error

    monkeypatch.setattr("raysde.cluster.tune_training.check_cluster", lambda *given: (1, Share(1, False)))
    monkeypatch.setattr("raysde.cluster.tune_training.run_trials", begun)
    settings = read_settings(None, ["train.lr=[1e-3,2e-3,3e-3]"], {"search": "grid", "scheduler": "fifo"})
    with pytest.raises(raised):
        tune_job(tree_of(digits, tmp_path), settings, "lrs")
    client = tracking.connect_client(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("raysde").experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([experiment])}
    found = {name: run.info.status for name, run in runs.items()}
    assert found == {"lrs": status, "lrs-000": "FINISHED", "lrs-001": "FINISHED", "lrs-002": status}
    tags = {name: run.data.tags.get(STOPPED) for name, run in runs.items()}
    assert tags == {"lrs": None, "lrs-000": None, "lrs-001": "early, at step 10", "lrs-002": None}


def test_a_sweep_whose_folder_was_removed_is_another_in_mlflow(monkeypatch, digits, tmp_path):
    """The sweep and its trials have their own MLflow runs; a resumed sweep keeps them."""

    def begun(sweep: Sweep, children: Children, at_once: int, share: Share) -> None:
        trial = sweep.next()
        sweep.note_run(trial.number, children.open_run(trial, children.recipe_of(trial, share)))
        raise KeyboardInterrupt

    monkeypatch.setattr("raysde.cluster.tune_training.check_cluster", lambda *given: (1, Share(1, False)))
    monkeypatch.setattr("raysde.cluster.tune_training.run_trials", begun)
    settings, seen = read_settings(None, ["train.lr=[1e-3,2e-3]"], {"search": "grid", "scheduler": "fifo"}), []
    for removed in (False, False, True):
        if removed:
            shutil.rmtree(tmp_path / "runs" / "lrs")
        with pytest.raises(Interrupted):
            tune_job(tree_of(digits, tmp_path), settings, "lrs")
        client = tracking.connect_client(f"sqlite:///{tmp_path / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("raysde").experiment_id
        seen.append(sorted(run.info.run_name for run in client.search_runs([experiment])))
    assert seen == [["lrs", "lrs-000"], ["lrs", "lrs-000"], ["lrs", "lrs", "lrs-000", "lrs-000"]]


def test_a_sweep_that_cannot_begin_leaves_no_mlflow_run(monkeypatch, digits, tmp_path):
    """The error about more workers than this machine has comes before anything is logged."""
    monkeypatch.setattr("raysde.cluster.tune_training.connect", lambda level: None)
    monkeypatch.setattr("raysde.cluster.job.list_live_nodes", lambda: [{}])
    monkeypatch.setattr("raysde.cluster.tune_training.survey_cluster", lambda *_: Cluster(2))
    settings = read_settings(None, ["train.lr=[1e-3,2e-3]"], {"search": "grid", "scheduler": "fifo"})
    tree = tree_of(digits, tmp_path, resources__cpus_per_worker=8)
    with pytest.raises(ValueError, match=r"resources\.cpus_per_worker"):
        tune_job(tree, settings, "lrs")
    client = tracking.connect_client(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert client.get_experiment_by_name("raysde") is None


def test_a_trial_whose_process_dies_fails_when_tune_gives_up(tmp_path):
    """Tune tells its scheduler of an error even if it starts the trial again."""
    space = read_space({"train.lr": [1e-3, 1e-2]})
    plan, early = plan_trials(space, "grid", 0, 2), Halving(4, 2, 16)
    sweep = Sweep(space, Ledger(str(tmp_path), {}), count=2, seed=0, metric="m", plan=plan, halving=early)
    judged = Judged(sweep, SimpleNamespace(close_run=lambda trial: None), SimpleNamespace(show=lambda: None))
    (tmp_path / "error.txt").write_text("Traceback\nActorDiedError: it was killed\n")
    trial, states = sweep.next(), []
    for again in (True, False):
        settings = {"config": {"number": 0}, "should_recover": lambda again=again: again}
        judged.on_trial_error(None, SimpleNamespace(**settings, error_file=str(tmp_path / "error.txt")))
        states.append((trial.state, trial.error))
    assert states == [("running", ""), ("failed", "ActorDiedError: it was killed")]


def test_tune_stops_what_falls_behind(tmp_path):
    space = read_space({"train.lr": [1e-3, 1e-2]})
    plan, early = plan_trials(space, "grid", 0, 2), Halving(4, 2, 16)
    sweep = Sweep(space, Ledger(str(tmp_path), {}), count=2, seed=0, metric="m", plan=plan, halving=early)
    judged = Judged(sweep, SimpleNamespace(close_run=lambda trial: None), SimpleNamespace(show=lambda: None))

    def report(number: int, **message) -> str:
        result = {key: json.dumps(value) for key, value in message.items()}
        return judged.on_trial_result(None, SimpleNamespace(config={"number": number}), result)

    assert [sweep.next().number, sweep.next().number] == [0, 1]
    assert report(0, report={"step": 2, "images": 4, "metrics": {"m": 1.0}}) == "CONTINUE"
    assert report(1, report={"step": 2, "images": 4, "metrics": {"m": 2.0}}) == "STOP"
    assert report(0, ended={"state": "finished", "error": ""}) == "CONTINUE"
    assert report(0, ended={"state": "failed", "error": "again"}) == "CONTINUE"
    assert [trial.state for trial in sweep.trials] == ["finished", "stopped"]


# a driver that is killed


STEPS = 40


def command(digits, place: Path, name: str) -> list[str]:
    tree = tree_of(digits, place, train__length__steps=STEPS, validation__every=10, checkpoint_every=10, log_every=5)
    recipe = place / "recipe.yaml"
    recipe.write_text(loading.dump_yaml(tree))
    over = ["--over", "sde.kind=[vp,ve]", "--over", "train.lr=[1e-3,1e-2]"]
    return [sys.executable, "-m", "raysde.cli", "tune", str(recipe), "--name", name, *over, "--search", "grid",
            "--reduction", "2", "--concurrent", "1"]  # fmt: skip


def states(folder: Path) -> list[tuple[str, int]]:
    """Return state and reports of each trial."""
    files = sorted((folder / "ledger").glob("trial-*.json"))
    return [(trial["state"], len(trial["reports"])) for trial in map(json.loads, map(Path.read_text, files))]


def table_in(printed: str) -> list[str]:
    """Return the rows of the ranking in a sweep's output."""
    lines = printed.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("rank "))
    return lines[first + 1 : first + 5]


def started(line: list[str], out: Path) -> subprocess.Popen:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return subprocess.Popen(line, cwd=ROOT, env=environment, stdout=out.open("w"), stderr=subprocess.STDOUT)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_driver_killed_half_way(digits, tmp_path):
    """SIGKILL comes when one trial has ended and another is running. The same command then gives the table of an
    undisturbed sweep, one MLflow run per trial, and every metric once."""
    whole = started(command(digits, tmp_path, "whole"), tmp_path / "whole.txt")
    assert whole.wait(700) == 0, (tmp_path / "whole.txt").read_text()
    line = command(digits, tmp_path, "broken")
    broken, folder = started(line, tmp_path / "broken.txt"), tmp_path / "runs" / "broken"
    until = time.monotonic() + 500
    while not (len(found := states(folder)) >= 2 and found[1][1] >= 1 and found[1][0] == "running"):
        assert broken.poll() is None, (tmp_path / "broken.txt").read_text()
        assert time.monotonic() < until, found
        time.sleep(0.05)
    broken.send_signal(signal.SIGKILL)
    broken.wait(30)
    assert states(folder)[0][0] != "running"
    again = started(line, tmp_path / "again.txt")
    assert again.wait(700) == 0, (tmp_path / "again.txt").read_text()
    tables = [table_in((tmp_path / name).read_text()) for name in ("whole.txt", "again.txt")]
    assert [row.split()[:-1] for row in tables[0]] == [row.split()[:-1] for row in tables[1]]  # except the seconds
    assert len(tables[0]) == 4
    for name in ("whole", "broken"):
        client = tracking.connect_client(f"sqlite:///{tmp_path / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("raysde").experiment_id
        (parent,) = client.search_runs([experiment], filter_string=f"tags.`raysde.runs.run` = '{name}'")
        runs = children(tmp_path, parent.info.run_id)
        assert sorted(runs) == [f"{name}-{number:03d}" for number in range(4)]
        for run in runs.values():
            for key in ("train/loss", "val/loss"):
                steps = [step for step, _ in history(tmp_path, run.info.run_id, key)]
                assert len(steps) == len(set(steps))
            assert run.info.status == "FINISHED"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_sweep_on_kid_picks_what_a_full_evaluation_picks(cluster, digits, tmp_path, monkeypatch):
    """Two trials, of which one hardly trains. The sweep ranks them by the KID of 256 images of each trial's last step;
    `raysde evaluate` of both last checkpoints on more images and another seed picks the same trial."""
    metrics = {"validation__metrics": ["kid", "accuracy"], "validation__metrics_every": 20, "validation__samples": 256,
               "validation__features": "judge", "validation__sampler": {"solver": "unipc", "steps": 8},
               "validation__batch": 256}  # fmt: skip
    changes = {"text": None, "class_conditional": True, "train__length__steps": 60, "train__batch": 64}
    tree = tree_of(digits, tmp_path, **changes, **metrics)
    settings = read_settings(None, [], {"search": "grid", "scheduler": "fifo", "metric": "val/kid"})
    settings = settings.model_copy(update={"space": {"train.lr": [1e-7, 1e-2]}})
    done = tune_job(tree, settings, "kids")
    ledger = Ledger(
        str(tmp_path / "runs" / "kids"), json.loads((tmp_path / "runs" / "kids" / "sweep.json").read_text())
    )
    for trial in ledger.trials.values():
        assert [report.step for report in trial.reports] == [20, 40, 60]
        assert {"val/kid", "val/accuracy"} <= trial.reports[-1].metrics.keys()
    values = {}
    for number in range(2):
        report, run = tmp_path / f"{number}.json", tmp_path / "runs" / "kids" / f"kids-{number:03d}"
        command = [
            "evaluate",
            f"{run}@last",
            "--data",
            digits.path,
            "--metrics",
            "kid",
            "--samples",
            "512",
            "--seed",
            "9",
        ]
        command += ["--features", "judge", "--solver", "unipc", "--steps", "8", "--output", str(report)]
        assert main(command) == 0
        (values[number],) = json.loads(report.read_text())["figures"]
    best = min(values, key=lambda number: values[number]["value"])
    assert values[best]["high"] < values[1 - best]["low"]  # a full evaluation tells them apart
    assert done.best.number == best
