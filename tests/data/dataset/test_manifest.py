"""The manifest: its fingerprint over every shard, rows by their numbers, and refusal of impossible values."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from raysde.config import loading
from raysde.data.dataset.manifest import FORMAT, Manifest, read_manifest, write_manifest
from raysde.data.dataset.reader import Reader
from raysde.data.dataset.shard_table import Shard
from raysde.data.ingest.digits import load_digits
from raysde.images.codec import decode_image
from raysde.runs.run import check_resumable, open_run
from tests.support.digits import write_digit_shards
from tests.support.training import small_recipe


def shard(number: int, rows: int = 10, **changes) -> Shard:
    return replace(Shard(f"train-{number:05d}.parquet", rows, 100, f"{number:064x}", "train", (8, 8)), **changes)


def test_the_fingerprint_is_of_every_shards_content_in_order():
    """The fingerprint depends on each digit of each hash, the shards' order, and class names in order, not on file names."""
    shards = (shard(1), shard(2), shard(3))
    others = [
        *((*shards[:n], shard(9), *shards[n + 1 :]) for n in range(3)), shards[:2], (*shards, shard(4)),
        (shards[1], shards[0], shards[2]),
    ]  # fmt: skip
    found = [Manifest("x", 1, (8, 8), 5, each).fingerprint for each in (shards, *others)]
    assert len(set(found)) == len(found)
    named = [replace(Manifest("x", 1, (8, 8), 5, shards), labels=labels) for labels in
             ((), ("a", "b"), ("b", "a"), ("ab",), ("a", "b", "c"), ("b, a",))]  # fmt: skip
    assert len({each.fingerprint for each in named}) == len(named)  # a class is its number, so their order counts
    moved = tuple(replace(each, file=f"other-{each.file}") for each in shards)
    assert Manifest("elsewhere", 1, (8, 8), 5, moved).fingerprint == found[0]


def test_rows_are_counted_through_all_shards_and_by_split():
    shards = (shard(1, 7), shard(2, 0), shard(3, 12, image=(4, 16)), shard(4, 5, split="validation"))
    manifest = Manifest("x", 1, (8, 8), 5, shards)
    assert (manifest.rows, manifest.rows_in("train"), manifest.rows_in("validation")) == (24, 19, 5)
    assert manifest.starts.tolist() == [0, 7, 7, 19, 24]
    assert manifest.image == (1, 8, 8)
    assert manifest.shapes == {(8, 8), (4, 16)}
    buckets = [sorted(layout.rows_at(np.arange(layout.count))) for layout in manifest.layouts("train")]
    assert buckets == [list(range(7, 19)), list(range(7))]  # in the order of their shapes
    (apart,) = manifest.layouts("validation")
    assert sorted(apart.rows_at(np.arange(5))) == list(range(19, 24))
    assert manifest.file(2) == "x/train-00003.parquet"
    with pytest.raises(ValueError, match=r"different sizes; set data\.image_size"):
        _ = replace(manifest, size=None).image


def test_each_row_is_described_by_itself(tmp_path):
    """Key, label, shard and image file of every row are right across short row groups and shards."""
    manifest = write_digit_shards(tmp_path, 47, 20, 6)
    reader, (images, labels) = Reader(manifest), load_digits()
    for row in range(47):
        about = reader.about(row)
        assert (about["row"], about["key"], about["label"]) == (row, f"{row:04d}.png", str(labels[row]))
        assert about["shard"] == f"train-{row // 20:05d}.parquet"
        assert np.array_equal(decode_image(reader.image_file(row), 1)[..., 0], images[row])


def inside(**changes):
    """Return a function that changes the second shard's entry."""

    def change(content):
        content["shards"][1].update(changes)

    return change


def outside(**changes):
    return lambda content: content.update(changes)


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        (outside(shards=[{}]), "is not a manifest"),
        (outside(size=[8]), "size must be two positive numbers"),
        (outside(size=[8, 0]), "size must be two positive numbers"),
        (outside(size=8), "size must be two positive numbers"),
        (outside(row_group=0), "row_group must be a positive number"),
        (outside(row_group=2.0), "row_group must be a positive number"),
        (outside(captions=-1), "captions and skipped must be counts"),
        (outside(skipped=True), "captions and skipped must be counts"),
        (outside(labels=["a", "a"]), "labels must be names"),
        (outside(labels=["a", 1]), "labels must be names"),
        (outside(source=3), "source and licence must be strings"),
        (outside(statistics=[]), "columns must be an object"),
        (outside(channels=True), "channels must be 1 or 3"),
        (outside(channels=2), "channels must be 1 or 3"),
        (outside(format="2"), "unknown format '2'"),
        (outside(format=FORMAT + 1), "made by a newer raysde"),
        (inside(file="../a.parquet"), "shard file '../a.parquet'"),
        (inside(file="a\\b"), "shard file"),
        (inside(file="a\n"), "shard file"),
        (inside(rows=-1), "rows, bytes, sha256"),
        (inside(bytes=1.5), "rows, bytes, sha256"),
        (inside(sha256="0" * 63), "rows, bytes, sha256"),
        (inside(sha256="G" * 64), "rows, bytes, sha256"),
        (inside(split="test"), "split 'test'"),
        (inside(image=[8, 8, 1]), "image"),
        (inside(etag="x"), "etag"),
        (inside(rows=79), "counts 200 rows, its shards 199"),
    ],
)
def test_a_manifest_with_what_cannot_be_is_refused(tmp_path, change, culprit):
    write_manifest(replace(write_digit_shards(tmp_path), format=3))  # which lists its shards
    content = json.loads((tmp_path / "manifest.json").read_text())
    change(content)
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"manifest\.json") as caught:
        read_manifest(str(tmp_path))
    assert culprit in str(caught.value)


def test_all_that_a_manifest_says_is_read_again(tmp_path):
    shards = (shard(1), shard(2, 3, split="validation", image=None))
    manifest = Manifest(str(tmp_path), 3, None, 7, shards, ("b", "a"), 4, {"x": [1.5]}, "source", "licence", 2)
    write_manifest(manifest)
    again = read_manifest(str(tmp_path))
    assert again == manifest
    assert again.statistics == {"x": [1.5]}


def test_a_run_does_not_go_on_with_other_data(digits, tmp_path):
    """A run refuses other data, precomputed folders or microbatch sizes, and accepts the same data at another path."""
    run = open_run(loading.parse_recipe(small_recipe(digits, tmp_path)))
    identity = {**run.data_identity, "microbatch": run.plan.microbatch}

    def found(**changes):
        return SimpleNamespace(spec=run.spec, recipe=run.config.flat(), data={**identity, **changes})

    assert identity["fingerprint"] == digits.fingerprint
    check_resumable(run, found())
    check_resumable(run, found(path="moved"))
    other = f"{int(digits.fingerprint, 16) ^ 1:016x}"
    for changes, said in (
        ({"fingerprint": other}, f"was trained on other data .*fingerprint {other}, now {digits.fingerprint}"),
        ({"microbatch": identity["microbatch"] // 2}, "has microbatches of"),
        ({"text": "text-0"}, "was trained with text-0 precomputed text, the recipe takes none"),
        ({"latents": "latents-0"}, "was trained with latents-0 precomputed latents, the recipe takes none"),
    ):
        with pytest.raises(ValueError, match=said):
            check_resumable(run, found(**changes))
