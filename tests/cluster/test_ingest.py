"""Ingest and the training stream on Ray Data."""

import hashlib
import json
import time

import numpy as np
import pytest
import ray
import ray.data
from PIL import Image
from ray.data._internal.execution import streaming_executor

from raysde.cluster import backpressure
from raysde.cluster.backpressure import PAUSE, set_up_data
from raysde.cluster.ingest import ingest
from raysde.cluster.stream import StreamSpec, group_by_step, make_stream_dataset, read_stream
from raysde.data.batches.arrow import from_table
from raysde.data.batches.microbatch import Feed, read_batches
from raysde.data.batches.plan import Plan
from raysde.data.dataset.manifest import INGESTING, read_manifest
from raysde.data.dataset.reader import Reader
from raysde.data.dataset.split import split_rows
from raysde.data.dataset.verify import verify_shards
from raysde.data.dataset.view import View
from raysde.data.ingest.convert import Rules
from raysde.data.ingest.digits import load_digits, write_digits
from raysde.data.ingest.probe import choose_rules
from raysde.data.ingest.sources import open_source
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


def spec_of(manifest, plan, view=View(), *, start, stop, block_steps, spare=0):  # noqa: B008
    rows, _ = split_rows(manifest, manifest.rows - plan.rows, 1)
    feed = Feed(plan, rows, view)
    return StreamSpec(path=manifest.path, fingerprint=manifest.fingerprint, feed=feed, start=start, stop=stop,
                      block_steps=block_steps, spare=spare)  # fmt: skip


def ordered(dataset):
    set_up_data()
    options = ray.data.ExecutionOptions()
    options.preserve_order = True
    dataset.context.execution_options = options
    return dataset


def test_the_stream_is_the_plan(digits):
    """Dealt out in turn, the blocks give each rank its microbatches step by step, as the bare loop reads them."""
    plan = Plan(rows=180, batch=24, microbatch=4, seed=1)
    spec = spec_of(digits, plan, View(shape=(6, 6), crop="random", scale=(0.5, 1.0)), start=3, stop=11, block_steps=3)
    tables = list(ordered(make_stream_dataset(spec)).iter_batches(batch_size=None, batch_format="pyarrow"))
    assert {table.num_rows for table in tables} == {12}
    expected = [batch for step in read_batches(spec.feed, Reader(digits), 3, 11) for batch in step]
    for world in (1, 2, 3):
        whole = {(batch.step, batch.index): batch for batch in expected}
        for rank in range(world):
            blocks = (list(from_table(table, 1)) for table in tables[rank::world])
            found = list(group_by_step(blocks, spec, rank, world))
            assert [[(b.step, b.index) for b in step] for step in found] == [
                [(step, index) for index in plan.of_rank(rank, world)] for step in range(3, 11)
            ]
            for batch in (batch for step in found for batch in step):
                twin = whole.pop((batch.step, batch.index))
                assert np.array_equal(batch.rows, twin.rows)
                assert np.array_equal(batch.images.numpy(), twin.images.numpy())
                assert batch.captions == twin.captions
        assert not whole


@ray.remote(num_cpus=0.1)
def consume(iterator, spec, rank, world):
    return [[(b.step, b.index, b.rows.tolist()) for b in step] for step in read_stream(iterator, spec, 1, rank, world)]


@pytest.mark.parametrize(("world", "batch"), [(2, 16), (3, 16), (4, 16)])
def test_ray_deals_blocks_out_in_turn(digits, world, batch):
    """streaming_split, as Ray Train uses it, gives every microbatch of every step once, also if ranks have unequal
    shares (4 microbatches, 3 workers)."""
    plan = Plan(rows=180, batch=batch, microbatch=4, seed=1)
    spec = spec_of(digits, plan, start=2, stop=20, block_steps=4, spare=world)
    splits = ordered(make_stream_dataset(spec)).streaming_split(world, equal=True)
    shares = ray.get([consume.remote(split, spec, rank, world) for rank, split in enumerate(splits)], timeout=120)
    assert {len(share) for share in shares} == {18}
    for offset, step in enumerate(range(2, 20)):
        seen = sorted(entry for share in shares for entry in share[offset])
        assert [(s, i) for s, i, _ in seen] == [(step, index) for index in range(4)]
        for _, index, rows in seen:
            assert rows == spec.feed.rows[plan.rows_of(step, index)].tolist()


def test_a_stream_that_is_at_its_end_is_empty(digits):
    """A worker group that restarts after the last checkpoint requests no steps at all."""
    spec = spec_of(digits, Plan(rows=180, batch=24, microbatch=4, seed=1), start=11, stop=11, block_steps=3)
    assert list(make_stream_dataset(spec).iter_batches(batch_size=None)) == []


def test_a_stream_of_another_rank_is_refused(digits):
    spec = spec_of(digits, Plan(rows=180, batch=8, microbatch=4, seed=1), start=0, stop=4, block_steps=4)
    tables = list(ordered(make_stream_dataset(spec)).iter_batches(batch_size=None, batch_format="pyarrow"))
    with pytest.raises(ValueError, match="does not follow the plan: rank 0 expected microbatches"):
        next(group_by_step((list(from_table(table, 1)) for table in tables[1:]), spec, 0, 2))


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
