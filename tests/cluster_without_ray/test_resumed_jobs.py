"""Jobs that resume, run in this process without Ray: units that count as finished, and the order of results."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from raysde import tracking
from raysde.checkpoints import checkpoint
from raysde.cluster import ingest, job, precompute, tune_sampler, worker
from raysde.config import loading
from raysde.data.batches.plan import LANED, WINDOWED
from raysde.data.ingest.convert import Rules, convert_part
from raysde.data.ingest.sources import open_source
from raysde.distributed.world import World
from raysde.evaluation.metric import Metric
from raysde.evaluation.metrics.jackknife import Influence
from raysde.precompute.jobs import TextJob
from raysde.runs.build import new_state
from raysde.runs.hooks import save_checkpoint
from raysde.runs.local import train_here
from raysde.runs.resume import follow_order
from raysde.runs.run import open_run
from raysde.tracking.spool import Spool, spool_folder
from raysde.tuning.sampler.space import Candidate
from tests.support.bad_steps import BAD, SETTINGS, Killed, interrupt, plant, train
from tests.support.encoders import text_encoder
from tests.support.pictures import rng_image
from tests.support.precomputed import many_captions
from tests.support.training import same_tensors


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


class Task:
    """A job of four units, each with files of its own.

    Attributes:
        asked: the units that each run was asked for.
        stops: number of units done before the job fails; None for all.
        turned: True to process the units last to first, as workers may.
    """

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.stops: int | None = None
        self.turned = False

    def done(self, units: list[int], one) -> Iterator:
        self.asked.append(list(units))
        for place, unit in enumerate(reversed(units) if self.turned else units):
            if place == self.stops:
                raise ValueError("interrupted")
            yield unit, one(unit)


class Ingest(Task):
    """An ingest of eight images in four parts of two shards each."""

    def __init__(self, folder: Path, monkeypatch) -> None:
        super().__init__()
        (folder / "images").mkdir()
        for number in range(8):
            Image.fromarray(rng_image(number)).save(folder / "images" / f"{number}.png")
        self.out = folder / "shards"
        self.source = open_source(str(folder / "images"), part_rows=2)
        self.rules = Rules(channels=3, size=8, shard_rows=1)
        monkeypatch.setattr(ingest, "connect", lambda: None)
        monkeypatch.setattr(
            ingest, "_convert_parts", lambda *given: (each for _, each in self.done(given[3], self.one))
        )

    def one(self, unit: int):
        result = convert_part(self.source.parts[unit], unit, self.rules, str(self.out))
        ingest.ingest_journal(str(self.out)).keep(unit, result.to_json())
        return result

    def run(self):
        return ingest.ingest(self.source, str(self.out), self.rules, name="x")


class Precompute(Task):
    """A job that embeds the captions of three shards and the empty caption."""

    def __init__(self, folder: Path, monkeypatch) -> None:
        super().__init__()
        self.manifest = many_captions(folder / "shards")
        encoder = text_encoder(folder / "bert")
        self.job = TextJob.of(self.manifest, encoder, max_tokens=32, dtype="fp32", batch_size=3)
        self.out, self.work = Path(self.job.out), self.job.work(self.manifest)
        monkeypatch.setattr(precompute, "connect", lambda: None)
        monkeypatch.setattr(precompute, "encode_units", lambda *given: self.done(given[2], self.one))

    def one(self, unit: int):
        file = self.work(unit)
        precompute.precompute_journal(str(self.out)).keep(unit, vars(file))
        return file

    def run(self):
        return precompute.precompute(self.job, self.manifest)


@pytest.fixture(params=[Ingest, Precompute])
def task(request, tmp_path, monkeypatch) -> Task:
    return request.param(tmp_path, monkeypatch)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("harm", [None, "cut", "longer", "gone"])
def test_a_finished_unit_counts_while_its_files_are_whole(task, harm, turned):
    """Missing or damaged units are done again, and no others; the result equals that of an undisturbed job."""
    task.run()
    expected = contents(task.out)
    shutil.rmtree(task.out)
    task.turned, task.stops = turned, 2
    with pytest.raises(ValueError, match="interrupted"):
        task.run()
    finished, left = ([2, 3], [0, 1]) if turned else ([0, 1], [2, 3])
    last = next(path for path in sorted(task.out.glob("train-*")) if f"-0000{finished[0]}" in path.name)
    if harm == "gone":
        last.unlink()
    elif harm is not None:
        last.write_bytes(last.read_bytes()[:-1] if harm == "cut" else last.read_bytes() + b"0")
    task.stops = None
    task.run()
    assert task.asked == [[0, 1, 2, 3], [0, 1, 2, 3], sorted([*left, *(finished[:1] if harm else [])])]
    assert contents(task.out) == expected


def test_what_was_made_is_made_no_second_time_and_compared(tmp_path, monkeypatch):
    """Hashes are compared: one changed bit of any file is reported."""
    task = Precompute(tmp_path, monkeypatch)
    derived = task.run()
    assert task.run() == derived
    assert len(task.asked) == 1
    for file in derived.all_files:
        path = task.out / file.file
        whole = path.read_bytes()
        path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        with pytest.raises(ValueError, match=file.file):
            task.run()
        path.write_bytes(whole)
    assert task.run() == derived


class Asked:
    """A study whose metrics are the candidates' steps."""

    def __init__(self) -> None:
        self.measured: list[int] = []

    def key(self, candidate: Candidate, samples: int) -> str:
        return f"{candidate.drawing['steps']}-{samples}"

    def outcome(self, candidate: Candidate, samples: int):
        steps = candidate.drawing["steps"]
        self.measured.append(steps)
        influence = Influence({"drawn": steps * torch.arange(samples, dtype=torch.float64)}, {"drawn": samples})
        return SimpleNamespace(figure=Metric("kid", float(steps), 0.0, 99.0, samples, 0), influence=influence)


class Tuner:
    """A stand-in for Ray Tune's Tuner that runs trials here, last to first."""

    def __init__(self, trial, *, param_space, run_config, **_) -> None:
        self.trial, self.numbers, self.run_config = trial, param_space["number"]["grid_search"], run_config

    def fit(self) -> list:
        results = []
        for number in reversed(self.numbers):
            reported = {}
            tune_sampler.tune.report = reported.update
            self.trial({"number": number})
            ended = SimpleNamespace(config={"number": number}, last_result=reported)
            for each in self.run_config.callbacks:
                each.on_trial_complete(1, [], ended)
            results.append(SimpleNamespace(error=None, metrics=reported))
        return results


@pytest.mark.parametrize("lost", [[], ["json"], ["safetensors"], ["json", "safetensors"]])
def test_a_measurement_counts_while_both_of_its_files_are_there(tmp_path, monkeypatch, lost):
    """The files are the metric and the influence of each image; if one is lost, only this measurement is repeated."""
    for name in ("connect", "quiet_tune"):
        monkeypatch.setattr(tune_sampler, name, lambda: None)
    monkeypatch.setattr(tune_sampler.ray, "cluster_resources", lambda: {"CPU": 3.0})
    monkeypatch.setattr(tune_sampler.tune, "report", None)
    monkeypatch.setattr(tune_sampler.tune, "with_resources", lambda trial, resources: trial)
    monkeypatch.setattr(tune_sampler.tune, "Tuner", Tuner)
    study, candidates = Asked(), [Candidate(None, {"steps": steps}, 1.0) for steps in (2, 3, 5, 8)]
    measure = tune_sampler.measure_on_ray(study, tmp_path)
    first = measure(candidates, 6)
    assert [each.figure.value for each in first] == [2.0, 3.0, 5.0, 8.0]
    assert [each.influence.values["drawn"][1].item() for each in first] == [2.0, 3.0, 5.0, 8.0]
    assert sorted(study.measured) == [2, 3, 5, 8]
    for kind in lost:
        for steps in (3, 8):
            (tmp_path / "trials" / f"{steps}-6.{kind}").unlink()
    study.measured.clear()
    again = measure(candidates, 6)
    assert sorted(study.measured) == ([3, 8] if lost else [])
    assert again == first
    assert [each.influence.values["drawn"].tolist() for each in again] == [
        each.influence.values["drawn"].tolist() for each in first
    ]


class Silent:
    """A tracker that discards everything."""

    def metrics(self, step, values) -> None:
        pass

    def image(self, step, name, image) -> None:
        pass

    def tags(self, tags) -> None:
        pass

    def secure(self, timeout) -> None:
        pass

    def close(self) -> bool:
        return True


def test_a_trial_that_goes_on_reports_the_step_of_its_checkpoint_again(recipe, monkeypatch):
    """The trial process may have died with the first report; the repeated metrics are equal to the bit."""
    tree = recipe(train__length__steps=5, checkpoint_every=1, keep_checkpoints=9, validation__rows=24,
                  validation__every=2, sampling__every=0, data__stream="worker", text=None)  # fmt: skip
    sent, run = [], open_run(loading.parse_recipe(tree))
    place = Path(run.config.storage) / "small"
    place.mkdir(parents=True)  # as the driver does
    monkeypatch.setattr(worker, "open_tracker", lambda settings, lease: Silent())
    monkeypatch.setattr(worker, "report_checkpoint", lambda run, world, step: None)
    settings = {
        "threads": torch.get_num_threads(),
        "recipe": tree,
        "started": 0.0,
        "lease": None,
        "leaving": "word",
        "reports": SimpleNamespace(send=sent.append, metric="val/loss"),
    }
    worker.run_worker(settings)
    first = list(sent)
    assert [(each["step"], each["last"]) for each in first] == [(2, False), (4, False), (5, True)]
    for step, expected in ((5, [5]), (3, [4, 5]), (2, [2, 4, 5])):
        for path in place.glob("step_*"):
            if path.name > checkpoint.checkpoint_name(step):
                shutil.rmtree(path)
        sent.clear()
        worker.run_worker(settings)
        assert sent == [each for each in first if each["step"] in expected]


@pytest.mark.parametrize("order", [WINDOWED, LANED])
def test_a_worker_reads_in_the_order_that_the_run_began_with(recipe, monkeypatch, order):
    """The rows of a worker that resumes are those of the order that the checkpoint records."""
    tree = recipe(train__length__steps=2, checkpoint_every=1, data__stream="worker", data__shuffle_window=32, text=None)
    place = Path(tree["storage"]) / "small"
    place.mkdir(parents=True)
    run, asked, read = open_run(loading.parse_recipe(tree)), [], worker.read_microbatches
    save_checkpoint(follow_order(run, {"order": order}), new_state(run, World().device), place, World())
    monkeypatch.setattr(worker, "open_tracker", lambda *given: Silent())
    monkeypatch.setattr(worker, "report_checkpoint", lambda *given: None)
    monkeypatch.setattr(worker, "read_microbatches", lambda run, *given: asked.append(run) or read(run, *given))
    settings = {"threads": 1, "recipe": tree, "started": 0.0, "lease": None, "leaving": "word"}
    worker.run_worker({**settings, "reports": SimpleNamespace(send=print, metric="val/loss")})
    assert [each.plan.order for each in asked] == [order]
    assert run.plan.has_lanes


def test_a_worker_goes_on_behind_the_batches_that_it_passed_over(recipe, tmp_path, monkeypatch):
    """A worker whose bad steps return to checkpoints, killed after the first return, ends as the bare loop does."""
    changes = {**SETTINGS, "train__on_bad_step": "rollback", "data__stream": "worker"}
    bare, tree = (recipe(**changes, storage=str(tmp_path / name)) for name in ("bare", "worker"))
    plant(monkeypatch, BAD)
    expected = train(bare)
    place = tmp_path / "worker" / "small"
    place.mkdir(parents=True)
    monkeypatch.setattr(worker, "open_tracker", lambda *given: Silent())
    monkeypatch.setattr(worker, "report_checkpoint", lambda *given: None)
    settings = {"threads": torch.get_num_threads(), "recipe": tree, "started": 0.0, "lease": None, "leaving": "word"}
    settings["reports"] = SimpleNamespace(send=print, metric="val/loss")
    with monkeypatch.context() as patched:
        interrupt(patched, 12, False)  # step 9, from the checkpoint of step 8 and plan position 11
        with pytest.raises(Killed):
            worker.run_worker(settings)
    assert worker.run_worker(settings) == {"step": 12, "failed": "", "left": False}
    state = checkpoint.read_description(place / checkpoint.checkpoint_name(12)).state
    assert state == json.loads(json.dumps(expected.values()))
    ours, theirs = (load_file(path / checkpoint.checkpoint_name(12) / "weights.safetensors")
                    for path in (place, tmp_path / "bare" / "small"))  # fmt: skip
    assert same_tensors(ours, theirs)
    again = {**tree, "name": "again", "train": {**tree["train"], "bad_steps": {"most": 0}}}
    (tmp_path / "worker" / "again").mkdir()
    failed = worker.run_worker({**settings, "recipe": again})["failed"]
    assert "train.bad_steps.most=0: bad step 1 is one too many: the loss is nan at step 7" in failed


def test_metrics_that_a_worker_left_on_disk_are_delivered(recipe, empty_store, tmp_path):
    """They are delivered when the finished run is submitted again, also if its model has another name than the run."""
    uri = f"sqlite:///{shutil.copy(empty_store, tmp_path)}"
    tree = recipe(train__length__steps=1, tracking__uri=uri, tracking__register_as="digits", text=None)
    run = open_run(loading.parse_recipe(tree))
    train_here(run, None)
    client = tracking.connect_client(uri)
    given = (client, run.config.tracking.experiment, "small", run.config.flat(), tracking.default_artifact_root(uri))
    run_id = tracking.open_mlflow_run(*given, None)
    spool = Spool(spool_folder("small", run_id))
    spool.add_metrics(1, {"train/loss": 0.25})
    done = job.train_job(run.config)
    assert (done.run_id, done.model) == (run_id, "models:/digits/1")
    assert [each.value for each in client.get_metric_history(run_id, "train/loss")] == [0.25]
    assert spool.is_empty
