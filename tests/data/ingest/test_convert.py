"""Conversion: no row is lost, bytes repeat, and statistics equal numpy's."""

import hashlib
import io
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from raysde.data.dataset.manifest import read_manifest
from raysde.data.dataset.reader import Reader, open_segments
from raysde.data.dataset.verify import verify_shards
from raysde.data.dataset.view import STILL
from raysde.data.ingest.collect import collect_parts
from raysde.data.ingest.convert import Converted, Rules, choose_split, convert_part
from raysde.data.ingest.samples import Bad, Sample
from raysde.data.ingest.statistics import Statistics
from raysde.images.codec import decode_image
from raysde.images.geometry import bucket_shapes
from raysde.images.open import open_picture
from tests.support.pictures import array_file, rng_image
from tests.support.sources import Given


def samples(count, size=8, channels=3, **kind):
    return tuple(
        Sample(
            f"{n:04d}.png",
            array_file(rng_image(n, size, channels), **kind),
            (f"one {n}", f"two {n}")[: n % 3],
            "abc"[n % 3],
        )
        for n in range(count)
    )


def rows_in(result, out):
    return [row for shard in result.shards for row in pq.read_table(out / shard.file).to_pylist()]


def test_rows_are_conserved(tmp_path):
    """Each sample is either stored or named as unusable, once."""
    given = (
        *samples(10),
        Bad("x", "x is missing"),
        Sample("cut.png", samples(1)[0].data[:60]),
        Sample("empty.png", b""),
    )
    result = convert_part(Given(given), 0, Rules(channels=3, size=8), str(tmp_path))
    rows = rows_in(result, tmp_path)
    assert [row["key"] for row in rows] == [sample.key for sample in given[:10]]
    assert [bad.key for bad in result.bad] == ["x", "cut.png", "empty.png"]
    assert all(bad.key in bad.reason for bad in result.bad)
    assert result.statistics.rows == sum(shard.rows for shard in result.shards) == 10
    for row, sample in zip(rows, given, strict=False):
        assert (tuple(row["captions"]), row["label"]) == (sample.captions, sample.label)
        assert row["hash"] == hashlib.blake2b(sample.data, digest_size=8).hexdigest()


@pytest.mark.parametrize("size", [(53, 100), (61, 53), (1, 90)])
def test_every_proportion_can_be_cut(tmp_path, size):
    pixels = rng_image(0, 100)[: size[1], : size[0]]
    for rules in (Rules(channels=3, size=49), Rules(channels=3, size=64, bucket_multiple=8)):
        assert not convert_part(Given((Sample("a", array_file(pixels)),)), 0, rules, str(tmp_path)).bad


def test_a_picture_too_long_for_its_size_is_bad_and_alone(tmp_path):
    given = (Sample("long.png", array_file(np.zeros((1, 200_000), dtype=np.uint8))), *samples(2, channels=1))
    result = convert_part(Given(given), 0, Rules(channels=1, size=64, fit="short"), str(tmp_path))
    assert [bad.key for bad in result.bad] == ["long.png"]
    assert result.statistics.rows == 2


def test_a_picture_too_long_for_jpeg_is_bad_and_alone(tmp_path):
    """Pictures that are too long before or after scaling are unusable, and others are stored."""
    long = Sample("long.png", array_file(np.zeros((1, 65_501), dtype=np.uint8)))
    grows = Sample("grows.jpg", array_file(np.zeros((4, 30_000), dtype=np.uint8), "JPEG"))
    fits = Sample("fits.png", array_file(np.zeros((1, 65_500), dtype=np.uint8)))
    for given, rules in [
        (long, Rules(channels=1, fit="keep", encode="jpeg")), (grows, Rules(channels=1, size=10, fit="short")),
    ]:  # fmt: skip
        result = convert_part(Given((given, fits)), 0, rules, str(tmp_path))
        assert [bad.key for bad in result.bad] == [given.key]
        assert "too long for JPEG" in result.bad[0].reason
        assert result.statistics.rows == sum(shard.rows for shard in result.shards) == 1


@pytest.mark.parametrize("kind", ["PNG", "GIF", "JPEG"])
def test_a_comment_does_not_follow_the_pixels(tmp_path, kind):
    """Comments are dropped: Pillow would copy them from the source, and JPEG has no room for long ones."""
    said = b"x" * (100_000 if kind == "GIF" else 60_000)
    options = {"comment": said}
    if kind == "PNG":
        options = {"pnginfo": PngInfo()}
        options["pnginfo"].add_text("comment", "x" * 100_000)
    data = stored(tmp_path, array_file(rng_image(0, 80), kind, **options), size=70, encode="jpeg")
    assert b"x" * 100 not in data
    assert decode_image(data, 3).shape == (70, 70, 3)


@pytest.mark.parametrize(
    "changes", [{}, {"bucket_multiple": 4}, {"validation": 0.3, "shard_rows": 7}, {"encode": "jpeg"}]
)
def test_the_same_part_gives_the_same_bytes(tmp_path, changes):
    rules = replace(Rules(channels=3, size=12), **changes)
    results = [
        convert_part(Given(samples(30)), 4, rules, str(tmp_path / name))
        for name in "ab"
        if not (tmp_path / name).mkdir()
    ]
    assert results[0].shards == results[1].shards
    for shard in results[0].shards:
        data = (tmp_path / "a" / shard.file).read_bytes()
        assert data == (tmp_path / "b" / shard.file).read_bytes()
        assert (shard.sha256, shard.bytes) == (hashlib.sha256(data).hexdigest(), len(data))


def test_the_validation_share_is_binomial():
    """The number of validation rows lies within four standard errors of any share."""
    hashes = [hashlib.blake2b(str(n).encode(), digest_size=8).hexdigest() for n in range(20_000)]
    for share in (0.0, 0.01, 0.2, 0.5, 1.0):
        found = sum(choose_split(one, share) == "validation" for one in hashes)
        assert abs(found - share * 20_000) <= 4 * np.sqrt(20_000 * share * (1 - share))


def test_copies_are_on_one_side(tmp_path):
    once = samples(40)
    copies = tuple(replace(sample, key=f"copy/{sample.key}") for sample in once)
    result = convert_part(Given(once + copies), 0, Rules(channels=3, size=8, validation=0.5), str(tmp_path))
    sides = {}
    for shard in result.shards:
        for row in pq.read_table(tmp_path / shard.file).to_pylist():
            sides.setdefault(row["hash"], []).append(shard.split)
    assert sorted(map(len, sides.values())) == [2] * 40
    assert {tuple(found) for found in sides.values()} == {("train", "train"), ("validation", "validation")}


def test_shards_are_cut_at_their_rows(tmp_path):
    result = convert_part(Given(samples(23)), 7, Rules(channels=3, size=8, shard_rows=10, row_group=4), str(tmp_path))
    assert [(shard.file, shard.rows) for shard in result.shards] == [
        ("train-00007.parquet", 10), ("train-00007-1.parquet", 10), ("train-00007-2.parquet", 3),
    ]  # fmt: skip
    assert [row["key"] for row in rows_in(result, tmp_path)] == [f"{n:04d}.png" for n in range(23)]
    assert pq.ParquetFile(tmp_path / "train-00007.parquet").metadata.num_row_groups == 3


def test_shards_are_cut_at_their_bytes(tmp_path, monkeypatch):
    """A shard ends as soon as its images reach the limit in bytes."""
    monkeypatch.setattr("raysde.data.ingest.convert.SHARD_BYTES", 3000)
    given = samples(20, size=16)
    result = convert_part(Given(given), 0, Rules(channels=3, size=16), str(tmp_path))
    assert [row["key"] for row in rows_in(result, tmp_path)] == [sample.key for sample in given]
    ends = np.cumsum([shard.rows for shard in result.shards])
    for start, stop in zip([0, *ends], ends, strict=False):
        held = [len(sample.data) for sample in given[start:stop]]
        assert sum(held[:-1]) < 3000
        assert sum(held) >= 3000 or stop == 20


def test_a_row_tells_what_is_stored_and_where_it_comes_from(tmp_path):
    """A row has the stored width and height and the source file's hash; statistics count source sizes."""
    data = array_file(rng_image(0, 30)[:20], "JPEG")
    result = convert_part(Given((Sample("a", data),)), 0, Rules(channels=3, size=10, fit="short"), str(tmp_path))
    (row,) = rows_in(result, tmp_path)
    assert (row["width"], row["height"]) == Image.open(io.BytesIO(row["image"]["bytes"])).size == (15, 10)
    assert (
        row["hash"]
        == hashlib.blake2b(data, digest_size=8).hexdigest()
        != hashlib.blake2b(row["image"]["bytes"], digest_size=8).hexdigest()
    )
    images = result.statistics.summary(3)["images"]
    assert (images["width"], images["height"]) == ([30, 30], [20, 20])


def stored(tmp_path, data, **rules):
    result = convert_part(Given((Sample("a", data),)), 0, Rules(channels=3, **rules), str(tmp_path))
    ((row,),) = (rows_in(result, tmp_path),)
    return row["image"]["bytes"]


@pytest.mark.parametrize("encode", ["auto", "keep"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("fit", ["crop", "pad", "short", "stretch", "keep"])
def test_what_did_not_change_is_kept(tmp_path, encode, kind, fit):
    data = array_file(rng_image(0, 80), kind)
    assert stored(tmp_path, data, size=80, fit=fit, encode=encode) == data


def test_encodings(tmp_path):
    """JPEG is written only for large JPEG sources or on request, and PNG keeps all pixels."""
    jpeg, png = array_file(rng_image(0, 160), "JPEG"), array_file(rng_image(0, 160))
    for data, encode, size, is_jpeg in [
        (jpeg, "auto", 80, True), (jpeg, "auto", 64, False), (png, "auto", 80, False), (jpeg, "keep", 80, False),
        (jpeg, "png", 160, False), (png, "jpeg", 160, True), (png, "png", 160, False), (array_file(rng_image(0, 160), "BMP"), "keep", 160, False),
    ]:  # fmt: skip
        found = stored(tmp_path, data, size=size, encode=encode)
        assert (found[:2] == b"\xff\xd8") == is_jpeg
        if not is_jpeg and size == 160:
            assert np.array_equal(decode_image(found, 3), np.asarray(open_picture(data, 3)))


def test_a_jpeg_that_only_pillow_reads_is_written_anew(tmp_path):
    """A JPEG with stray bytes before its end, which libjpeg accepts and training's decoder refuses, is re-encoded."""
    data = array_file(rng_image(0, 80), "JPEG")
    odd = data[:-2] + b"stray" + data[-2:]
    with pytest.raises(ValueError, match="extraneous"):
        decode_image(odd, 3)
    found = stored(tmp_path, odd, size=80, encode="keep")
    assert np.array_equal(decode_image(found, 3), np.asarray(open_picture(odd, 3)))


def test_buckets_have_shards_of_their_own(tmp_path):
    rng = np.random.default_rng(0)
    shapes = [(20, 40), (40, 20), (30, 30)] * 5
    given = tuple(
        Sample(f"{n}", array_file(rng.integers(0, 256, (*shape, 3), dtype=np.uint8))) for n, shape in enumerate(shapes)
    )
    rules = Rules(channels=3, size=32, bucket_multiple=8)
    manifest = collect_parts(
        [convert_part(Given(given), 0, rules, str(tmp_path))], rules, str(tmp_path), source="s", licence=""
    )
    assert len(manifest.shards) == 3
    assert manifest.size == (32, 32)
    assert {shard.image for shard in manifest.shards} <= set(bucket_shapes(32, 8))
    for number, shard in enumerate(manifest.shards):
        assert f"{shard.image[0]}x{shard.image[1]}" in shard.file
        rows = np.arange(manifest.starts[number], manifest.starts[number + 1])
        assert Reader(manifest).read(rows).images.shape == (5, *shard.image, 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_statistics_are_numpys(tmp_path, channels):
    given = samples(20, channels=channels)
    result = convert_part(Given(given), 0, Rules(channels=channels, size=8, encode="png"), str(tmp_path))
    pixels = np.stack([rng_image(n, 8, channels) for n in range(20)]) / 255.0
    summary = result.statistics.summary(channels)
    assert np.allclose(summary["images"]["mean"], pixels.mean(axis=(0, 1, 2)), atol=1e-6)
    assert np.allclose(summary["images"]["std"], pixels.std(axis=(0, 1, 2)), atol=1e-6)
    assert summary["labels"] == dict(Counter(sample.label for sample in given))
    captions = [caption for sample in given for caption in sample.captions]
    assert summary["captions"] == {
        "in_all": len(captions),
        "mean_characters": round(float(np.mean([len(caption) for caption in captions])), 2),
        "longest": max(map(len, captions)),
    }


def test_the_statistics_of_parts_add_up(tmp_path):
    given, rules = samples(20), Rules(channels=3, size=8)
    whole = convert_part(Given(given), 0, rules, str(tmp_path)).statistics.to_json()
    added = Statistics()
    for number, part in enumerate((given[8:], given[7:8], (), given[:7])):
        added.add(convert_part(Given(part), number, rules, str(tmp_path)).statistics)
    found = added.to_json()
    for name in ("total", "squares"):
        assert np.allclose(found.pop(name), whole.pop(name), rtol=1e-12)
    assert found == whole


def test_results_survive_json(tmp_path):
    given = (*samples(9), Bad("x", "x is missing"))
    for changes in ({}, {"fit": "keep", "size": None}, {"bucket_multiple": 4}):
        rules = replace(Rules(channels=3, size=8, validation=0.3), **changes)
        result = convert_part(Given(given), 0, rules, str(tmp_path))
        again = Converted.from_json(json.loads(json.dumps(result.to_json())))
        assert (again.shards, again.bad) == (result.shards, result.bad)
        assert again.statistics.to_json() == result.statistics.to_json()
        again.statistics.add(result.statistics)
        assert again.statistics.rows == 18


def test_the_report_names_copies_and_repeated_keys(tmp_path):
    given = samples(6)
    parts = [given, (replace(given[2], key="copy"), replace(given[4], key="0001.png"), Bad("x", "x is missing"))]
    rules = Rules(channels=3, size=8)
    results = [convert_part(Given(part), number, rules, str(tmp_path)) for number, part in enumerate(parts)]
    collect_parts(results, rules, str(tmp_path), source="s", licence="l")
    found = json.loads((tmp_path / "report.json").read_text())
    assert sorted(found["duplicates"]["groups"]) == [["0002.png", "copy"], ["0004.png", "0001.png"]]
    assert found["repeated_keys"] == {"rows": 1, "groups": [["0001.png", "0001.png"]]}
    assert found["skipped"] == [{"key": "x", "reason": "x is missing"}]


def test_an_ingest_lists_its_segments(tmp_path):
    """The index has a length for each row group; parts that an earlier version converted have none, and so no index."""
    given, rules = samples(24), Rules(channels=3, size=8, validation=0.25, shard_rows=6, row_group=4)
    parts = [convert_part(Given(part), n, rules, str(tmp_path)) for n, part in enumerate((given[:11], given[11:]))]
    back = [Converted.from_json(json.loads(json.dumps(part.to_json()))) for part in parts]
    manifest = collect_parts(back, rules, str(tmp_path), source="s", licence="l")
    places = open_segments(manifest)
    for number, shard in enumerate(manifest.shards):
        last = -(-shard.rows // 4) - 1
        assert sum(places.place(number, last)) < shard.bytes
        assert places.place(number, 0)[0] == 0
    (tmp_path / "segments.arrow").unlink()
    parts = [convert_part(Given(part), n, rules, str(tmp_path)) for n, part in enumerate((given[:11], given[11:]))]
    earlier = [{key: value for key, value in part.to_json().items() if key != "segments"} for part in parts]
    collect_parts(map(Converted.from_json, earlier), rules, str(tmp_path), source="s", licence="l")
    assert open_segments(manifest) is None


def test_reading_back(tmp_path):
    """Pixels, captions and labels are read back in any order, and all captions equally often."""
    given, rules = samples(24), Rules(channels=3, size=8, validation=0.25, shard_rows=6, row_group=4)
    parts = [given[:11], (Bad("x", "x is missing"), *given[11:])]
    results = [convert_part(Given(part), number, rules, str(tmp_path)) for number, part in enumerate(parts)]
    manifest = collect_parts(results, rules, str(tmp_path), source="s", licence="l")
    assert read_manifest(str(tmp_path)) == manifest
    assert (manifest.captions, manifest.skipped) == (sum(bool(sample.captions) for sample in given), 1)
    splits = [shard.split for shard in manifest.shards]
    assert splits == sorted(splits)
    assert len(set(splits)) == 2
    assert max(Counter((shard.file[:11], shard.split) for shard in manifest.shards).values()) > 1
    verify_shards(manifest, hashes=True)
    reader = Reader(manifest)
    keys = [int(str(reader.about(row)["key"])[:4]) for row in range(24)]
    assert sorted(keys) == list(range(24))
    row_splits = np.repeat(splits, [shard.rows for shard in manifest.shards])
    for split in set(splits):  # rows stand as they were given, also where a part fills several shards
        assert np.all(np.diff(np.array(keys)[row_splits == split]) > 0)
    rows = np.random.default_rng(0).permutation(24)
    found = reader.read(rows)
    assert np.array_equal(found.images, [rng_image(keys[row]) for row in rows])
    assert found.captions == [(*given[keys[row]].captions, "")[0] for row in rows]
    assert [manifest.labels[label] for label in found.labels] == [given[keys[row]].label for row in rows]
    row = keys.index(2)
    draws = np.repeat(STILL[None], 2000, axis=0)
    draws[:, 0] = np.random.default_rng(1).random(2000)
    counts = Counter(reader.read(np.full(2000, row), draws=draws).captions)
    assert set(counts) == {"one 2", "two 2"}
    assert abs(counts["one 2"] - 1000) <= 4 * np.sqrt(500)


def test_other_programs_read_the_shards(tmp_path):
    given = samples(5)
    result = convert_part(Given(given), 0, Rules(channels=3, size=8), str(tmp_path))
    path = tmp_path / result.shards[0].file
    frame = pd.read_parquet(path)
    assert [image["bytes"] for image in frame["image"]] == [sample.data for sample in given]
    assert [tuple(captions) for captions in frame["captions"]] == [sample.captions for sample in given]
    assert frame["label"].tolist() == [sample.label for sample in given]


def test_datasets_reads_the_shards(tmp_path):
    datasets = pytest.importorskip("datasets")
    result = convert_part(Given(samples(5)), 0, Rules(channels=3, size=8), str(tmp_path))
    found = datasets.Dataset.from_parquet(str(tmp_path / result.shards[0].file), cache_dir=str(tmp_path / "cache"))
    assert [np.array_equal(row["image"], rng_image(n)) for n, row in enumerate(found)] == [True] * 5


@pytest.mark.parametrize(
    ("rules", "size"),
    [
        ({"fit": "crop"}, (10, 10)),
        ({"fit": "pad"}, (10, 10)),
        ({"fit": "stretch"}, (10, 10)),
        ({"fit": "short"}, None),
        ({"bucket_multiple": 2}, (10, 10)),
    ],
    ids=str,
)
def test_a_data_set_has_a_size_where_its_images_have_one(tmp_path, rules, size):
    """The manifest has a size only if the rules give images of 20 x 40 and 40 x 20 the same size."""
    given = tuple(Sample(str(high), array_file(np.zeros((high, 60 - high, 3), np.uint8))) for high in (20, 40))
    made = Rules(channels=3, size=10, validation=0.0, **rules)
    manifest = collect_parts(
        [convert_part(Given(given), 0, made, str(tmp_path))], made, str(tmp_path), source="s", licence=""
    )
    assert manifest.size == size
