"""Evaluation and batch sampling on Ray equal those of one process, also when processes are lost."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
import torch
from ray import cloudpickle

from raysde.cli import main
from raysde.cluster.evaluate import RETRIES, Workers, pack_script, unpack_script
from raysde.cluster.resources import Share, largest_share, worker_share
from raysde.cluster.sample import draw_on_actors
from raysde.conditioning.text import PretrainedText
from raysde.data.dataset.manifest import write_manifest
from raysde.data.dataset.reader import Reader
from raysde.evaluation.evaluate import evaluate
from raysde.evaluation.features.networks import FeatureNetwork, wrap_as_network
from raysde.evaluation.generated import Drawer
from raysde.evaluation.question import Question
from raysde.evaluation.real import Real, RealImages
from raysde.evaluation.selection import ImageConditions
from raysde.evaluation.workload import DRAWN, REAL, Bench, measure_here
from raysde.inference.bulk import draw_all
from raysde.inference.ranges import split_range
from raysde.registry import load
from tests.cluster.networks import Mortal
from tests.support import vision_networks
from tests.support.bulk import bulk, files_of
from tests.support.checkpoints import write_model
from tests.support.digits import write_digit_shards
from tests.support.encoders import text_encoder
from tests.support.feature_networks import Network
from tests.support.models import CAPTIONS
from tests.support.paths import ROOT

FAST = {"solver": "ddim", "steps": 2, "guidance": 1.0}
METRICS = ("fid", "kid", "is", "precision", "recall", "accuracy", "denoised_psnr", "inpainted_psnr")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return 500 digits for training and 40 held-out ones."""
    manifest = write_digit_shards(tmp_path_factory.mktemp("data") / "shards", 540, 250, 50)
    shards = (*manifest.shards[:2], dataclasses.replace(manifest.shards[2], split="validation"))
    manifest = dataclasses.replace(manifest, shards=shards)
    write_manifest(manifest)
    return manifest


@pytest.fixture(scope="module")
def labels(tmp_path_factory) -> str:
    return write_model(tmp_path_factory.mktemp("models") / "labels", text=None, classes=10)


def figures_of(labels, data, cache, measure, **settings):
    question = Question(METRICS, 600, rows=40, seed=3, allow_few=True, settings={**FAST, **settings})
    opener = lambda reader: wrap_as_network("net", Network())  # noqa: E731
    return evaluate(load(labels), data.path, question, open_features=opener, cache=cache, measure=measure).figures


@pytest.mark.slow
@pytest.mark.usefixtures("cluster", "one_thread")
def test_figures_do_not_depend_on_the_workers(labels, data, tmp_path):
    """Metrics and intervals of 1, 2 and 4 workers equal those of one process with as many threads, bit for bit. With
    another batch size, whose kernels round differently, they agree to the rounding of a few pixels. Each case
    measures real images anew."""
    alone = {}
    for workers in (1, 2, 4):
        torch.set_num_threads(threads := worker_share(workers, None).threads)
        if threads not in alone:
            alone[threads] = figures_of(labels, data, tmp_path / f"alone-{threads}", measure_here)
        with Workers(workers) as measure:
            assert figures_of(labels, data, tmp_path / str(workers), measure) == alone[threads]
    assert [each.name for each in alone[1]] == list(METRICS)
    with Workers(2) as measure:
        other = figures_of(labels, data, tmp_path / "other", measure, batch_size=17)
    for mine, twin in zip(other, alone[1], strict=True):
        assert mine.value == pytest.approx(twin.value, rel=1e-3, abs=2 / 600), mine.name


@pytest.mark.slow
@pytest.mark.usefixtures("cluster", "one_thread")
def test_figures_in_pretrained_networks_and_memorised_images_do_not_depend_on_the_workers(data, tmp_path):
    """CLIPScore, CMMD, FD-DINOv2 and memorised of two workers equal those of one process, bit for bit, with the pairs,
    in several ranges of images."""
    model = load(write_model(tmp_path / "captions"))
    folders = {"clip": vision_networks.clip(tmp_path / "clip"), "dinov2": vision_networks.dinov2(tmp_path / "dinov2")}
    metrics = ("clip_score", "cmmd", "fd_dinov2", "memorised")
    question = Question(metrics, 300, seed=3, reference=270, allow_few=True, settings=FAST, **folders)
    opener = lambda reader: wrap_as_network("net", Network())  # noqa: E731

    def answer(measure, cache):
        return evaluate(model, data.path, question, open_features=opener, cache=tmp_path / cache, measure=measure)

    alone = answer(measure_here, "alone")
    with Workers(2) as measure:
        spread = answer(measure, "spread")
    assert spread.figures == alone.figures
    assert spread.about["memorisation"] == alone.about["memorisation"]
    assert torch.equal(spread.pairs.images, alone.pairs.images)


def bench_of(labels, data, network, rows=500) -> Bench:
    named = wrap_as_network("net", network) if not isinstance(network, FeatureNetwork) else network
    source = RealImages(data.fingerprint, "train", rows, (8, 8), named.hash)
    drawer = Drawer(load(labels), ImageConditions(tuple(range(10)), takes_labels=True), 5, FAST, named)
    return Bench(Real(Reader(data), source, named), drawer)


@pytest.mark.usefixtures("cluster", "one_thread")
def test_a_lost_worker_is_replaced_and_its_stretch_measured_anew(labels, data, tmp_path):
    """After two deaths by SIGKILL in the middle of a range, every part comes once, in order, as from one process."""
    bench, said = bench_of(labels, data, Mortal(str(tmp_path), 2)), []
    with Workers(2) as measure:
        for work, places in ((DRAWN, split_range(90, 20)), (REAL, split_range(500, 100))):
            found = list(measure(bench, work, places, lambda done, total: said.append((done, total))))
            for mine, twin in zip(found, measure_here(bench, work, places), strict=True):
                assert mine.first == twin.first
                assert torch.equal(mine.values["features"], twin.values["features"])
    assert len(list(tmp_path.iterdir())) == 2
    assert (said[0], said[5], said[6], said[11]) == ((0, 90), (90, 90), (0, 500), (500, 500))
    assert len(said) == 12


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_stretch_that_kills_every_worker_ends_the_evaluation(labels, data, tmp_path):
    bench = bench_of(labels, data, Mortal(str(tmp_path), None))
    with Workers(1) as measure, pytest.raises(RuntimeError, match=f"lost {RETRIES + 1} times at images 0 to 19"):
        list(measure(bench, DRAWN, split_range(40, 20), None))
    assert len(list(tmp_path.iterdir())) == RETRIES + 1


@pytest.mark.usefixtures("cluster")
def test_what_a_worker_finds_is_one_sentence(labels, tmp_path):
    """A shard that is damaged after the checks is named, and TorchScript is sent as its file."""
    manifest = write_digit_shards(tmp_path / "shards", 100, 50, 50)
    network = torch.jit.script(Network())
    bench = bench_of(labels, manifest, FeatureNetwork("script", "hash", network, 1), rows=None)
    path = Path(manifest.file(1))
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    with Workers(1) as measure:
        (found,) = measure(bench, DRAWN, [(0, 10)], None)
        (twin,) = measure_here(bench, DRAWN, [(0, 10)])
        torch.testing.assert_close(found.values["logits"], twin.values["logits"], rtol=0.0, atol=0.05)
        path.write_bytes(bytes(footer) + whole[footer:])
        with pytest.raises(ValueError, match=r"^shard train-00001.parquet of .* is damaged") as error:
            list(measure(bench, REAL, [(0, 100)], None))
    assert "Traceback" not in str(error.value)


@pytest.mark.parametrize("text", ["scratch", "pretrained"])
def test_a_model_of_captions_travels(tmp_path, text):
    """A copy made with Ray's serialisation samples the same images."""
    given = (
        {"text": PretrainedText(path=text_encoder(tmp_path / "bert"), max_tokens=32)} if text == "pretrained" else {}
    )
    model = load(write_model(tmp_path / "model", **given))
    again = cloudpickle.loads(cloudpickle.dumps(model))
    how = {"prompts": CAPTIONS, "guidance": 2.0, "solver": "ddim", "steps": 2}
    assert torch.equal(again.sample(**how).images, model.sample(**how).images)


def test_torchscript_as_a_file():
    images = torch.arange(128, dtype=torch.uint8).reshape(2, 1, 8, 8)
    again = unpack_script(pack_script(torch.jit.script(Network())))
    assert torch.equal(again(images)[0], Network()(images)[0])


@pytest.mark.parametrize(
    ("nodes", "workers", "expected"),
    [
        ([3], 1, 3.0),
        ([3], 2, 1.0),
        ([3], 4, 0.5),
        ([3], 7, 1 / 3),
        ([4, 4, 4], 3, 4.0),
        ([4, 4, 4], 4, 2.0),  # a share of 3 on nodes of 4 would leave no room for the fourth worker
        ([4, 4, 4], 13, 0.5),
        ([64, 2], 2, 32.0),
        ([0, 8], 3, 2.0),
        ([], 3, 1.0),
        ([0.5], 1, 1.0),
    ],
)
def test_a_share_leaves_room_for_all(nodes, workers, expected):
    found = largest_share(nodes, workers)
    assert found == expected
    if any(node >= 1 for node in nodes):
        assert sum(int(node / found + 1e-9) for node in nodes) >= workers


def test_workers_are_on_gpus_where_there_are_some(monkeypatch):
    alive = [{"CPU": 4.0}, {"CPU": 8.0, "GPU": 2.0}]
    nodes = [{"Alive": True, "Resources": each} for each in alive] + [
        {"Alive": False, "Resources": {"CPU": 99.0, "GPU": 9.0}}
    ]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    assert worker_share(1, None) == Share(0.0, 1.0, "cuda")
    assert worker_share(4, None) == Share(0.0, 0.5, "cuda")
    assert worker_share(3, "cpu") == Share(4.0, 0.0, "cpu")
    monkeypatch.setattr(ray, "nodes", lambda: nodes[:1])
    assert worker_share(2, None) == Share(2.0, 0.0, "cpu")
    assert worker_share(2, "cuda") == Share(0.0, 1.0, "cuda")


class Spread:
    """A stand-in for Ray's pool that records the actors' resources and starts none."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, float, str]] = []

    def map_batches(self, kind, *, num_cpus, num_gpus, fn_constructor_args, **_) -> "Spread":
        self.asked.append((num_cpus, num_gpus, fn_constructor_args[1].device))
        return self

    def iter_rows(self):
        return iter(())

    def options(self, *, num_cpus, num_gpus) -> "Spread":
        self.given = num_cpus, num_gpus
        return self

    def remote(self, held, place):
        self.asked.append((*self.given, place.device))
        return SimpleNamespace(ready=SimpleNamespace(remote=object))


@pytest.mark.parametrize(("device", "expected"), [(None, (0.0, 1.0, "cuda")), ("cuda", (0.0, 1.0, "cuda")), ("cpu", (2.0, 0.0, "cpu"))])  # fmt: skip
def test_a_device_that_is_asked_for_is_the_actors(monkeypatch, device, expected):
    """The cases are batch sampling and evaluation on a cluster with GPUs."""
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 4.0, "GPU": 2.0}}])
    asked = Spread()
    context = SimpleNamespace(get_current=SimpleNamespace)
    data = SimpleNamespace(DataContext=context, from_items=lambda rows, **_: asked)
    for module in ("evaluate", "sample"):
        theirs = SimpleNamespace(put=lambda value: value, remote=lambda kind: asked, data=data)
        monkeypatch.setattr(f"raysde.cluster.{module}.ray", theirs)
        monkeypatch.setattr(f"raysde.cluster.{module}.connect", lambda: None)
    monkeypatch.setattr("raysde.cluster.evaluate.register_serializer", lambda *_, **__: None)
    assert list(draw_on_actors(2, device)(None, [0, 1, 2], lambda *_: None)) == []
    Workers(2, device=device)._start(Bench(None, None))
    assert asked.asked == [expected] * 3


@pytest.mark.parametrize("fails", [False, True])
def test_workers_end_with_their_context(monkeypatch, fails):
    """Idle, busy and starting workers end, also after an error."""
    ended = []
    monkeypatch.setattr(ray, "kill", ended.append)
    workers = Workers(3)
    workers.idle, workers.busy = ["idle"], {"one": ("busy", (0, 10)), "two": ("starting", None)}
    with contextlib.suppress(KeyError), workers:
        if fails:
            raise KeyError
    assert sorted(ended) == ["busy", "idle", "starting"]


def test_threads_are_those_of_the_cpus():
    assert Share(0.5, 0.0, "cpu").threads == 1
    assert Share(0.0, 1.0, "cuda").threads == 1
    assert Share(1000.0, 0.0, "cpu").threads == os.cpu_count()


@pytest.mark.usefixtures("cluster", "one_thread")
def test_parts_of_prompts_are_the_same_files(labels, tmp_path):
    """Two actors sample five parts, one of which exists already: byte for byte those of one process."""
    model = load(labels)
    alone, shared = (bulk(model, tmp_path / name, rows=33) for name in ("alone", "shared"))
    draw_all(alone)
    first = files_of(tmp_path / "alone")
    (tmp_path / "shared").mkdir()
    for name in ("sampling.json", "part-00002.parquet"):
        (tmp_path / "shared" / name).write_bytes(first[name])
    before = (tmp_path / "shared" / "part-00002.parquet").stat().st_mtime_ns
    said = []
    assert draw_all(shared, draw_on_actors(2), lambda done, total: said.append((done, total))) == 8
    assert files_of(tmp_path / "shared") == first
    assert (tmp_path / "shared" / "part-00002.parquet").stat().st_mtime_ns == before
    assert said[0] == (8, 33)
    assert said[-1] == (33, 33)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_killed_driver_goes_on(labels, tmp_path):
    """The driver of a job on a cluster dies by SIGKILL; the resubmitted job keeps the finished parts."""
    (tmp_path / "rows.csv").write_text("label\n" + "".join(f"{row % 10}\n" for row in range(1500)))
    out = tmp_path / "out"
    given = ["sample", labels, "--prompts-file", str(tmp_path / "rows.csv"), "--steps", "10", "--workers", "2",
             "--out", str(out)]  # fmt: skip
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    command = [sys.executable, "-m", "raysde.cli", *given]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, env=environment)
    deadline = time.monotonic() + 180
    while not list(out.glob("part-*.parquet")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    time.sleep(3.0)  # its actors end with it
    before = {path: path.stat().st_mtime_ns for path in out.glob("part-*.parquet")}
    assert 1 <= len(before) < 6
    assert main(given) == 0
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    assert len(list(out.glob("part-*.parquet"))) == 6
