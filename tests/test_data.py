"""Source folders, shards and decoding."""

import json

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from raysde.data.batches import read_batches
from raysde.data.decode import Reader, decode_image, encode_image
from raysde.data.digits import Judge, load_digits
from raysde.data.plan import Plan
from raysde.data.shards import SCHEMA, Manifest, columns, read_manifest, verify, write_manifest, write_shard
from raysde.data.source import list_source, open_image
from tests.conftest import rng_image, write_digit_shards


def write_images(folder, count=3, **kinds):
    folder.mkdir(exist_ok=True)
    for number in range(count):
        Image.fromarray(rng_image(number)).save(folder / f"{number}.png")
    return folder


def test_three_ways_to_give_captions(tmp_path):
    """metadata.jsonl, a CSV and text files say the same thing."""
    lines = write_images(tmp_path / "lines")
    rows = [{"file_name": f"{n}.png", "text": f"caption, {n}", "label": ["b", "a", "b"][n]} for n in range(3)]
    (lines / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = write_images(tmp_path / "table")
    (table / "about.csv").write_text(
        "file_name,text,label\n" + "\n".join(f'{n}.png,"caption, {n}",{"bab"[n]}' for n in range(3))
    )
    texts = write_images(tmp_path / "texts")
    for n in range(3):
        (texts / f"{n}.txt").write_text(f"caption, {n}\n")
    assert list_source(lines) == list_source(table)
    assert [(item.name, item.caption, item.label) for item in list_source(lines)] == [
        ("0.png", "caption, 0", 1), ("1.png", "caption, 1", 0), ("2.png", "caption, 2", 1),
    ]  # fmt: skip
    assert [item.caption for item in list_source(texts)] == ["caption, 0", "caption, 1", "caption, 2"]
    assert {item.label for item in list_source(texts)} == {None}


def test_numbers_stay_the_labels_they_are(tmp_path):
    folder = write_images(tmp_path / "f")
    (folder / "metadata.jsonl").write_text(
        "\n".join(json.dumps({"file_name": f"{n}.png", "label": 7 - n}) for n in range(3))
    )
    assert [item.label for item in list_source(folder)] == [7, 6, 5]


@pytest.mark.parametrize(
    ("prepare", "culprit"),
    [
        (lambda folder: None, "is not a folder"),
        (lambda folder: folder.mkdir(), "holds no image"),
        (
            lambda folder: (write_images(folder) / "metadata.jsonl").write_text('{"file_name": "9.png", "text": "x"}'),
            "9.png",
        ),
        (lambda folder: (write_images(folder) / "metadata.jsonl").write_text('{"text": "x"}'), "entry 1"),
        (lambda folder: (write_images(folder) / "metadata.jsonl").write_text('{"file_name"'), "line 1"),
        (
            lambda folder: [(write_images(folder) / n).write_text("file_name,text\n") for n in ("a.csv", "b.csv")],
            "a.csv, b.csv",
        ),
    ],
)
def test_bad_sources_are_named(tmp_path, prepare, culprit):
    prepare(tmp_path / "source")
    with pytest.raises(ValueError, match=culprit):
        list_source(tmp_path / "source")


def test_an_unreadable_image_is_named(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG not really")
    with pytest.raises(ValueError, match=r"broken\.png"):
        open_image(tmp_path / "broken.png", 8, 3)


def test_images_are_cut_square_from_the_middle(tmp_path):
    """A wide image loses its sides, not its proportions."""
    wide = np.zeros((10, 30, 3), dtype=np.uint8)
    wide[:, 10:20] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert (open_image(tmp_path / "wide.png", 10, 3) == 200).all()
    assert open_image(tmp_path / "wide.png", 5, 1).shape == (1, 5, 5)


@pytest.mark.parametrize("encoding", ["raw", "png"])
@pytest.mark.parametrize("channels", [1, 3])
def test_encodings_lose_nothing(encoding, channels):
    image = np.moveaxis(rng_image(0, 12, channels), 2, 0)
    assert np.array_equal(decode_image(encode_image(image, encoding), image.shape, encoding), image)


def test_rows_come_back_as_they_were(digits):
    """Images, captions and labels of any rows, across shards and row groups, in the order asked for."""
    images, labels = load_digits()
    rows = np.array([199, 0, 120, 119, 5, 5])
    got = Reader(digits).read(rows)
    assert np.array_equal(got.images[:, 0], images[rows])
    assert np.array_equal(got.labels, labels[rows])
    assert got.captions[1] == "a handwritten zero"
    assert Reader(digits).name(120) == "0120.png"


def test_a_small_cache_reads_the_same(tmp_path):
    manifest = write_digit_shards(tmp_path / "s", rows=150, shard_rows=30)
    rows = np.random.default_rng(0).permutation(150)
    small = Reader(manifest, cache_bytes=1)
    assert np.array_equal(small.read(rows).images, Reader(manifest).read(rows).images)
    assert len(small.groups) == 2


def test_batches_hold_the_rows_of_the_plan(digits):
    plan = Plan(rows=50, batch=8, microbatch=4, seed=0)
    rows = np.arange(100, 150)
    whole = [batch for step in read_batches(plan, Reader(digits), rows, 2, 5) for batch in step]
    assert [(batch.step, batch.index) for batch in whole] == [(s, i) for s in (2, 3, 4) for i in (0, 1)]
    halves = [list(read_batches(plan, Reader(digits), rows, 2, 5, rank, 2)) for rank in (0, 1)]
    for batch in whole:
        (twin,) = halves[batch.index][batch.step - 2]
        assert np.array_equal(twin.rows, batch.rows)
        assert np.array_equal(batch.rows, rows[plan.rows_of(batch.step, batch.index)])


def test_the_manifest_survives_and_guards(tmp_path):
    manifest = write_digit_shards(tmp_path / "s")
    assert read_manifest(manifest.path) == manifest
    verify(manifest, hashes=True)
    assert manifest.fingerprint != write_digit_shards(tmp_path / "t", rows=199).fingerprint


def damage_hash(folder):
    """Flips one byte in the middle of the data."""
    path = folder / "shard-00001.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 1
    path.write_bytes(bytes(data))


def other_columns(folder):
    """A shard with another column, its hash and size entered in the manifest."""
    table = pa.table({"picture": [b"x"]})
    import pyarrow.parquet as pq

    pq.write_table(table, folder / "shard-00001.parquet")
    content = json.loads((folder / "manifest.json").read_text())
    data = (folder / "shard-00001.parquet").read_bytes()
    import hashlib

    content["shards"][1].update(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    (folder / "manifest.json").write_text(json.dumps(content))


def edit(folder, **changes):
    content = json.loads((folder / "manifest.json").read_text())
    content.update(changes)
    (folder / "manifest.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("harm", "culprit"),
    [
        (damage_hash, "shard-00001.parquet.*sha256"),
        (other_columns, "shard-00001.parquet.*columns"),
        (lambda folder: (folder / "shard-00000.parquet").unlink(), "shard-00000.parquet.*missing"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "not valid JSON"),
        (lambda folder: edit(folder, rows=5), "counts 5 rows"),
        (lambda folder: edit(folder, columns={"image": "string"}), "columns"),
        (lambda folder: edit(folder, format=99), "unknown format"),
        (lambda folder: edit(folder, colour="red"), "not a manifest"),
    ],
)
def test_damaged_data_sets_are_named(tmp_path, harm, culprit):
    write_digit_shards(tmp_path / "s")
    harm(tmp_path / "s")
    with pytest.raises(ValueError, match=culprit):
        verify(read_manifest(str(tmp_path / "s")), hashes=True)


def test_png_shards_of_colour_images(tmp_path):
    images = [np.moveaxis(rng_image(n, 80), 2, 0) for n in range(5)]
    rows = [{"image": encode_image(i, "png"), "caption": None, "label": None, "name": "x"} for i in images]
    shard = write_shard(pa.Table.from_pylist(rows, schema=SCHEMA), str(tmp_path), "shard-00000.parquet")
    manifest = Manifest(str(tmp_path), (3, 80, 80), "png", (shard,), 0, 0, columns(SCHEMA))
    write_manifest(manifest)
    got = Reader(read_manifest(str(tmp_path))).read(np.arange(5))
    assert np.array_equal(got.images, np.stack(images))
    assert got.labels.tolist() == [-1] * 5


def test_the_judge_reads_real_digits():
    judge = Judge()
    assert judge.held_out >= 0.985
    images, labels = load_digits()
    # real images are their own nearest neighbours, noise is nobody's
    assert judge.memorised(images[:50]) == 1.0
    assert judge.memorised(np.random.default_rng(0).integers(0, 256, (50, 8, 8))) == 0.0
    assert judge.accuracy(images[:50], (labels[:50] + 1) % 10) < 0.1
