"""Ingestion and the training stream on Ray Data."""

import numpy as np
import pytest
from PIL import Image

from raysde.cluster.ingest import ingest
from raysde.cluster.stream import StreamSpec, microbatches, steps_in_block, stream
from raysde.data.decode import Reader
from raysde.data.digits import write_digits
from raysde.data.plan import Plan, split_rows
from raysde.data.shards import read_manifest, verify
from raysde.data.source import list_source
from tests.conftest import rng_image

pytestmark = pytest.mark.usefixtures("cluster")


def test_every_image_is_in_the_shards_once(tmp_path):
    write_digits(tmp_path / "images")
    manifest = ingest(tmp_path / "images", str(tmp_path / "shards"), shard_rows=500)
    verify(manifest, hashes=True)
    assert read_manifest(str(tmp_path / "shards")) == manifest
    assert [shard.rows for shard in manifest.shards] == [500, 500, 500, 297]
    assert (manifest.image, manifest.classes, manifest.captions) == ((1, 8, 8), 10, 1797)
    items, reader = list_source(tmp_path / "images"), Reader(manifest)
    got = reader.read(np.arange(1797))
    assert got.captions.tolist() == [item.caption for item in items]
    assert got.labels.tolist() == [item.label for item in items]
    for row in (0, 777, 1796):
        with Image.open(tmp_path / "images" / items[row].name) as picture:
            assert np.array_equal(np.asarray(picture), got.images[row, 0])


@pytest.fixture
def spoiled(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(6):
        Image.fromarray(rng_image(number)).save(folder / f"{number}.png")
    (folder / "3.png").write_bytes(b"not an image")
    return folder


def test_an_unreadable_image_stops_ingestion(spoiled, tmp_path):
    with pytest.raises(ValueError, match=r"3\.png.*--skip-bad"):
        ingest(spoiled, str(tmp_path / "shards"))
    assert not (tmp_path / "shards" / "manifest.json").exists()


def test_unreadable_images_can_be_skipped_and_are_counted(spoiled, tmp_path):
    manifest = ingest(spoiled, str(tmp_path / "shards"), shard_rows=2, skip_bad=True)
    assert manifest.rows == 5
    assert len(manifest.skipped) == 1
    assert "3.png" in manifest.skipped[0]


def test_a_data_set_is_not_overwritten(spoiled, tmp_path):
    ingest(spoiled, str(tmp_path / "shards"), skip_bad=True)
    with pytest.raises(ValueError, match="holds a data set already"):
        ingest(spoiled, str(tmp_path / "shards"), skip_bad=True)


@pytest.mark.parametrize(("world", "block_steps"), [(1, 4), (2, 3), (3, 5)])
def test_the_stream_is_the_plan(digits, world, block_steps):
    """Blocks in order, rank by rank, hold the rows and images that the plan and the shards say, from any step."""
    plan = Plan(rows=180, batch=24, microbatch=4, seed=1)
    spec = StreamSpec(
        manifest=digits, plan=plan, validation=20, seed=1, start=3, stop=11, world=world, block_steps=block_steps
    )
    rows, _ = split_rows(200, 20, 1)
    reader = Reader(digits)
    seen: dict[int, list] = {rank: [] for rank in range(world)}
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    dataset = stream(spec)
    options = ray.data.ExecutionOptions()
    options.preserve_order = True
    dataset.context.execution_options = options
    for number, block in enumerate(dataset.iter_batches(batch_size=None, batch_format="numpy")):
        seen[number % world] += list(microbatches(block))
    for rank, batches in seen.items():
        mine = plan.of_rank(rank, world)
        assert [(b.step, b.index) for b in batches] == [(step, index) for step in range(3, 11) for index in mine]
        for batch in batches:
            expected = rows[plan.rows_of(batch.step, batch.index)]
            assert np.array_equal(batch.rows, expected)
            assert np.array_equal(batch.images.numpy(), reader.read(expected).images)


def test_a_stream_that_is_at_its_end_is_empty(digits):
    """A worker group that restarts after the last checkpoint asks for no steps at all."""
    plan = Plan(rows=180, batch=24, microbatch=4, seed=1)
    spec = StreamSpec(manifest=digits, plan=plan, validation=20, seed=1, start=11, stop=11, world=2, block_steps=3)
    assert list(stream(spec).iter_batches(batch_size=None)) == []


def test_blocks_hold_what_fits():
    assert steps_in_block((1, 8, 8), 128, 8.0, 64) == 64
    assert steps_in_block((3, 256, 256), 128, 8.0, 64) == 1
    assert steps_in_block((3, 32, 32), 128, 8.0, 64) == 20
