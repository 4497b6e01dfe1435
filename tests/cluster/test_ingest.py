"""Ingest on Ray Data."""

import hashlib
import json
import time

import numpy as np
import pytest
import ray.data
from PIL import Image
from ray.data._internal.execution import streaming_executor

from raysde.cluster import backpressure
from raysde.cluster import ingest as cluster_ingest
from raysde.cluster.backpressure import PAUSE, set_up_data
from raysde.cluster.ingest import ingest
from raysde.commands.ingest import print_summary
from raysde.data.dataset.duplicates import Criterion
from raysde.data.dataset.manifest import INGESTING, read_manifest
from raysde.data.dataset.reader import Reader
from raysde.data.dataset.verify import verify_shards
from raysde.data.ingest.convert import Rules
from raysde.data.ingest.digits import load_digits, write_digits
from raysde.data.ingest.probe import choose_rules
from raysde.data.ingest.sources import open_source
from tests.support.copies import draw_scene, resized
from tests.support.pictures import rng_image

pytestmark = pytest.mark.usefixtures("cluster")


def test_every_image_is_in_the_shards_once(tmp_path):
    """The shards have all digits with captions and labels, each in one of the two splits."""
    write_digits(tmp_path / "images")
    source = open_source(str(tmp_path / "images"), part_rows=500)
    rules = choose_rules(source, validation=0.1, shard_rows=500)
    assert (rules.channels, rules.size) == (1, 8)
    manifest = ingest(source, str(tmp_path / "shards"), rules, name="digits")
    verify_shards(manifest, hashes=True)
    assert read_manifest(str(tmp_path / "shards")) == manifest
    assert not (tmp_path / "shards" / INGESTING).exists()
    assert (manifest.rows, manifest.image, manifest.classes, manifest.captions) == (1797, (1, 8, 8), 10, 1797)
    assert abs(manifest.rows_in("validation") - 179.7) < 4 * np.sqrt(1797 * 0.09)
    reader, (images, labels) = Reader(manifest), load_digits()
    keys = [str(reader.about(row)["key"]) for row in range(1797)]
    assert sorted(keys) == [f"{number:04d}.png" for number in range(1797)]
    numbers = np.array([int(key[:4]) for key in keys])
    got = reader.read(np.arange(1797))
    assert np.array_equal(got.images[..., 0], images[numbers])
    assert np.array_equal(got.labels, labels[numbers])
    lines = [json.loads(line) for line in (tmp_path / "images" / "metadata.jsonl").read_text().splitlines()]
    assert got.captions == [lines[number]["text"] for number in numbers]


@pytest.fixture
def spoiled(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(12):
        Image.fromarray(rng_image(number)).save(folder / f"{number:02d}.png")
    (folder / "05.png").write_bytes(b"not an image")
    return folder


def contents(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def test_an_interrupted_ingest_goes_on(spoiled, tmp_path):
    """The ingest stops at the bad image. With --skip-bad it keeps the finished parts, and ends with the same files
    as an uninterrupted ingest and as one with other parallelism."""
    source = open_source(str(spoiled), part_rows=2)
    rules = Rules(channels=3, size=8, shard_rows=2)
    for _ in range(2):  # the second time, the image's part is one of the finished parts
        with pytest.raises(ValueError, match=r"05\.png.*--skip-bad"):
            ingest(source, str(tmp_path / "a"), rules, name="x")
    assert not (tmp_path / "a" / "manifest.json").exists()
    finished = {json_file.name for json_file in (tmp_path / "a" / INGESTING).glob("part-*.json")}
    assert finished
    with pytest.raises(ValueError, match="unfinished ingest of another source or with other options"):
        ingest(source, str(tmp_path / "a"), Rules(channels=1, size=8, shard_rows=2), name="x", skip_bad=True)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").glob("*.parquet")}
    manifest = ingest(source, str(tmp_path / "a"), rules, name="x", skip_bad=True)
    recorded = [path for path in before if f"part-0{path.stem[-5:]}.json" in finished]
    assert recorded
    assert all(path.stat().st_mtime_ns == before[path] for path in recorded)
    assert (manifest.rows, manifest.skipped) == (11, 1)
    assert "05.png" in (tmp_path / "a" / "report.json").read_text()
    ingest(source, str(tmp_path / "b"), rules, name="x", skip_bad=True)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    with pytest.raises(ValueError, match="holds a data set already"):
        ingest(source, str(tmp_path / "b"), rules, name="x", skip_bad=True)


def test_near_duplicates_are_left_out_after_an_interruption(tmp_path, monkeypatch, capsys):
    """Stopped after the first pass and after one part of the second, an ingest ends with the files of a whole one, in
    which every image is kept, left out or unusable."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(12):
        draw_scene(number).save(folder / f"{number:02d}.png")
        resized(draw_scene(number), 0.5).save(folder / f"{number:02d}-half.jpg", quality=90)
    (folder / "bad.png").write_bytes(b"not an image")
    source = open_source(str(folder), part_rows=5)
    rules = Rules(channels=3, size=48, shard_rows=5, near=Criterion())
    whole = ingest(source, str(tmp_path / "whole"), rules, name="x", skip_bad=True)
    assert (whole.rows, whole.skipped) == (12, 1)
    keys = {str(Reader(whole).about(row)["key"]) for row in range(12)}
    assert keys == {f"{number:02d}.png" for number in range(12)}
    print_summary(whole, str(tmp_path / "whole"))
    assert "12 near duplicates left out: " in capsys.readouterr().out

    convert = cluster_ingest._convert_parts

    def stopped(*args):
        raise OSError("stopped")

    def stopped_in_second_pass(*args):
        for result in convert(*args):
            yield result
            if len(args) == 6:
                raise OSError("stopped")

    for name, stop in (("decide", stopped), ("_convert_parts", stopped_in_second_pass)):
        with monkeypatch.context() as patched:
            patched.setattr(cluster_ingest, name, stop)
            with pytest.raises(OSError, match="stopped"):
                ingest(source, str(tmp_path / "a"), rules, name="x", skip_bad=True)
    ingest(source, str(tmp_path / "a"), rules, name="x", skip_bad=True)
    assert contents(tmp_path / "a") == contents(tmp_path / "whole")
    assert contents(tmp_path / "a" / "hashes") == contents(tmp_path / "whole" / "hashes")


def test_a_task_that_cannot_write_is_one_sentence(spoiled, tmp_path):
    """A folder in the place of a shard stands for a full disk; once it is gone, the ingest resumes."""
    source = open_source(str(spoiled), part_rows=20)
    rules = Rules(channels=3, size=8, shard_rows=20)
    harm = tmp_path / "a" / "train-00000.parquet"
    harm.mkdir(parents=True)
    with pytest.raises(OSError, match=r"^shard train-00000\.parquet cannot be written to \S+/a: [^\n]*$"):
        ingest(source, str(tmp_path / "a"), rules, name="x", skip_bad=True)
    harm.rmdir()
    assert ingest(source, str(tmp_path / "a"), rules, name="x", skip_bad=True).rows == 11


def test_an_executor_that_may_read_nothing_rests(monkeypatch):
    """With a full share of the object store and no reader, the executor looks once per pause. Without the pause it
    looks hundreds of times a second, on half a core."""
    looks, limits = [], []
    process, rested = streaming_executor.process_completed_tasks, backpressure.pause_if_exhausted
    monkeypatch.setattr(
        streaming_executor, "process_completed_tasks", lambda *a, **b: looks.append(1) or process(*a, **b)
    )
    monkeypatch.setattr(backpressure, "pause_if_exhausted", lambda limit: limits.append(limit) or rested(limit))
    set_up_data()
    stream = ray.data.range(40, override_num_blocks=40).map_batches(
        lambda _: {"x": np.zeros((1, 500_000))}, batch_size=None
    )
    stream.context.execution_options.resource_limits = ray.data.ExecutionResources(object_store_memory=20e6)
    blocks = iter(stream.iter_batches(batch_size=None, prefetch_batches=0))
    next(blocks)
    deadline = time.monotonic() + 60.0
    while 0 not in limits[-8:] and time.monotonic() < deadline:
        time.sleep(0.1)
    looks.clear(), limits.clear()
    time.sleep(2.0)
    assert 0 in limits
    assert 1 <= len(looks) <= 2.0 / PAUSE + 2
    assert sum(1 for _ in blocks) == 39
