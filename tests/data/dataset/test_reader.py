"""The reader of a data set: shards, manifest, decoded rows and microbatches."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from raysde.config import loading
from raysde.data.batches.arrow import from_table
from raysde.data.batches.feed import Feed
from raysde.data.batches.microbatch import held_out_batches, read_batches
from raysde.data.batches.plan import Plan
from raysde.data.batches.tables import to_table
from raysde.data.dataset.layout import hold_out_rows
from raysde.data.dataset.manifest import SCHEMA, Manifest, read_manifest, write_manifest
from raysde.data.dataset.reader import Reader, open_dataset_reader
from raysde.data.dataset.shard_table import Shard
from raysde.data.dataset.shards import distinct_captions, write_shard
from raysde.data.dataset.split import shuffle_window, split_rows
from raysde.data.dataset.verify import verify_shards
from raysde.data.dataset.view import CAPTION, STILL, View, draw_uniforms
from raysde.data.ingest.digits import DigitJudge, load_digits
from raysde.images.codec import encode_image
from raysde.runs.run import make_view
from tests.support.blocks import decode_steps
from tests.support.digits import write_digit_shards
from tests.support.pictures import rng_image
from tests.support.training import small_recipe


def feed_of(manifest, view=View(), **plan):  # noqa: B008
    rows, _ = split_rows(manifest, 0, 0)
    return Feed(Plan(rows=rows.count, **{"batch": 8, "microbatch": 4, "seed": 0, **plan}), rows, view)


def test_rows_come_back_as_they_were(digits):
    """Images, captions and labels of any rows, across shards and row groups, come in the requested order."""
    images, labels = load_digits()
    rows = np.array([199, 0, 120, 119, 5, 5])
    got = Reader(digits).read(rows)
    assert np.array_equal(got.images[..., 0], images[rows])
    assert np.array_equal(got.labels, labels[rows])
    assert got.captions[1] == "a handwritten zero"
    about = Reader(digits).about(120)
    assert (about["key"], about["shard"], about["label"]) == ("0120.png", "train-00001.parquet", str(labels[120]))


def test_a_small_cache_reads_the_same(tmp_path):
    manifest = write_digit_shards(tmp_path / "s", rows=150, shard_rows=30, row_group=8)
    rows = np.random.default_rng(0).permutation(150)
    small = Reader(manifest, cache_bytes=1)
    assert np.array_equal(small.read(rows).images, Reader(manifest).read(rows).images)
    assert len(small.groups.kept) == 2


def test_a_row_group_is_read_once_for_a_batch(tmp_path, monkeypatch):
    """A row group is read once for any order of its rows, and for a whole window if the cache holds it."""
    manifest = write_digit_shards(tmp_path / "s", rows=160, shard_rows=80, row_group=16)
    read = []
    groups = (reader := Reader(manifest)).groups
    load = groups.read
    monkeypatch.setattr(
        groups, "read", lambda shard, number, *rest: read.append((shard, number)) or load(shard, number, *rest)
    )
    for step in range(20):
        reader.read(feed_of(manifest, batch=8, microbatch=8, window=80, chunk=16).plan.rows_of(step, 0))
    assert len(read) == len(set(read)) == 10


def test_batches_hold_the_rows_of_the_plan(digits):
    feed = feed_of(digits)
    whole = [batch for step in read_batches(feed, Reader(digits), 2, 5) for batch in step]
    assert [(batch.step, batch.index) for batch in whole] == [(s, i) for s in (2, 3, 4) for i in (0, 1)]
    halves = [list(read_batches(feed, Reader(digits), 2, 5, rank, 2)) for rank in (0, 1)]
    images, _ = load_digits()
    for batch in whole:
        (twin,) = halves[batch.index][batch.step - 2]
        assert np.array_equal(twin.rows, batch.rows)
        assert np.array_equal(batch.rows, feed.rows[feed.plan.rows_of(batch.step, batch.index)])
        assert np.array_equal(batch.images.numpy()[:, 0], images[batch.rows])


def colour_set(folder, sizes, captions=("one", "two")):
    """Return a data set of noise images with a shard for each (height, width, rows)."""
    folder.mkdir(exist_ok=True)
    shards, made = [], []
    for number, (height, width, rows) in enumerate(sizes):
        images = [np.random.default_rng((number, row)).integers(0, 256, (height, width, 3), np.uint8) for row in range(rows)]  # fmt: skip
        table = [
            {"image": {"bytes": encode_image(Image.fromarray(image), quality=None), "path": None},
             "captions": list(captions), "label": None, "key": f"{number}/{row}", "width": width, "height": height,
             "hash": f"{number:08x}{row:08x}"}
            for row, image in enumerate(images)
        ]  # fmt: skip
        name = f"train-{height}x{width}-{number:05d}.parquet"
        table = pa.Table.from_pylist(table, schema=SCHEMA)
        shards.append(write_shard(table, str(folder), name, row_group=4, image=(height, width)))
        made += images
    manifest = Manifest(str(folder), 3, (12, 12), 4, tuple(shards), captions=sum(rows for *_, rows in sizes))
    write_manifest(manifest)
    return manifest, made


@pytest.mark.parametrize("view", [View(), View(shape=(12, 12))])
def test_buckets_come_in_their_own_shapes(tmp_path, view):
    """Each microbatch has the shape of its rows' shard, and every row comes once an epoch."""
    manifest, made = colour_set(tmp_path, [(8, 18, 8), (12, 12, 12), (18, 8, 4)])
    rows, _ = split_rows(manifest, 0, 0)
    plan = Plan(rows=24, batch=8, microbatch=4, seed=0, buckets=rows.sizes)
    seen = [batch for step in read_batches(Feed(plan, rows, view), Reader(manifest), 0, 3) for batch in step]
    for batch in seen:
        for image, row in zip(batch.images, batch.rows, strict=True):
            assert np.array_equal(image.permute(1, 2, 0).numpy(), made[row])
    assert sorted(np.concatenate([batch.rows for batch in seen])) == list(range(24))
    table = to_table(decode_steps(Feed(plan, rows, view), Reader(manifest), 0, 3)[:3])
    back = list(from_table(table, 3))
    assert all(torch.equal(a.images, b.images) for a, b in zip(seen, back, strict=False))


def test_blocks_carry_microbatches_unchanged(digits):
    """All fields survive the conversion, and pixels are not copied."""
    feed = feed_of(digits)
    batches = [batch for step in read_batches(feed, Reader(digits), 0, 3) for batch in step]
    table = to_table(decode_steps(feed, Reader(digits), 0, 3))
    assert table.num_rows == sum(len(batch.rows) for batch in batches)
    for sent, got in zip(batches, from_table(table, 1), strict=True):
        assert (sent.step, sent.index, sent.captions) == (got.step, got.index, got.captions)
        assert np.array_equal(sent.rows, got.rows)
        assert torch.equal(sent.images, got.images)
        assert torch.equal(sent.labels, got.labels)
        data = table.column("image").chunk(0).buffers()[2]
        assert data.address <= got.images.data_ptr() < data.address + data.size
    assert list(from_table(to_table([]), 1)) == []
    sliced = table.slice(4, 8)
    assert [batch.step for batch in from_table(sliced, 1)] == [0, 1]
    assert torch.equal(next(from_table(sliced, 1)).images, batches[1].images)


def test_augmentation_is_keyed_by_the_microbatch(tmp_path):
    """A microbatch has the same crops and captions each time; another microbatch or seed has others."""
    manifest, _ = colour_set(tmp_path, [(12, 16, 8)])
    view = View(shape=(6, 6), crop="random", scale=(0.4, 1.0))
    feed = feed_of(manifest, view, seed=1)
    first, again = ([b.images for s in read_batches(feed, Reader(manifest), 0, 9) for b in s] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    late = next(read_batches(feed, Reader(manifest), 5, 6))
    assert all(torch.equal(a, b.images) for a, b in zip(first[10:12], late, strict=True))
    assert not np.array_equal(draw_uniforms(1, 0, 0, 4), draw_uniforms(1, 0, 1, 4))
    assert not np.array_equal(draw_uniforms(1, 0, 0, 4), draw_uniforms(2, 0, 0, 4))


def test_every_microbatch_has_draws_of_its_own(tmp_path):
    """The draws depend on seed, step and index together, with one row of draws for each row on any worker."""
    manifest, _ = colour_set(tmp_path, [(6, 6, 8)])
    seen = {}

    class Asked:
        def read(self, rows, view, draws, take):
            assert draws.shape == (len(rows), 4)
            return draws

    for seed in (0, 1):
        feed = feed_of(manifest, seed=seed)
        for step in range(3):
            for index in range(2):
                _, found = feed.read(Asked(), step, index)
                _, again = feed.read(Asked(), step, index)
                assert np.array_equal(found, again)
                seen[seed, step, index] = found
    numbers = np.concatenate([found.reshape(-1) for found in seen.values()])
    assert len(np.unique(numbers)) == len(numbers) == 12 * 4 * 4


def test_without_draws_the_largest_box_in_the_middle_is_shown(tmp_path):
    """Validation reads the largest central box and the first caption, whatever crops training uses."""
    cropped = View(shape=(8, 8), crop="random", scale=(0.4, 1.0))
    assert cropped.box((40, 20), (8, 8), STILL) == pytest.approx((10.0, 0.0, 30.0, 20.0))
    manifest, _ = colour_set(tmp_path, [(12, 12, 3)], captions=("a", "b"))
    reader, rows = Reader(manifest), np.arange(3)
    plain = reader.read(rows, View(shape=(6, 6)))
    cut = reader.read(rows, View(shape=(6, 6), crop="random", scale=(0.4, 1.0)))
    assert np.array_equal(cut.images, plain.images)
    assert plain.captions == ["a"] * 3
    held = next(held_out_batches(reader, rows, 3, View(shape=(6, 6), crop="random", scale=(0.4, 1.0)), 0, 1))
    assert np.array_equal(held.images.permute(0, 2, 3, 1).numpy(), plain.images)


def test_draws_are_uniform():
    """Mean and variance of 40,000 draws lie within four standard errors of 1/2 and 1/12."""
    found = draw_uniforms(0, 3, 1, 10_000).reshape(-1)
    assert abs(found.mean() - 0.5) < 4 * np.sqrt(1 / 12 / 40_000)
    assert abs(found.var() - 1 / 12) < 4 * np.sqrt(1 / 180 / 40_000)
    assert found.min() >= 0.0
    assert found.max() < 1.0


def test_crops_cover_the_picture_evenly():
    """Areas of boxes are uniform between their bounds, places uniform between the edges, and all boxes lie inside."""
    view = View(shape=(8, 8), crop="random", scale=(0.5, 1.0))
    boxes = np.array([view.box((40, 20), (8, 8), draw) for draw in draw_uniforms(0, 0, 0, 5000)])
    left, top, right, bottom = boxes.T
    assert (boxes >= -1e-9).all()
    assert (right <= 40 + 1e-9).all()
    assert (bottom <= 20 + 1e-9).all()
    area = ((right - left) / 20) ** 2
    assert abs(area.mean() - 0.625) < 4 * 0.75 / np.sqrt(12 * 5000)
    for place in (left / (40 - (right - left)), top / (20 - (bottom - top))):
        assert abs(place.mean() - 0.5) < 4 / np.sqrt(12 * 5000)
        assert abs(place.var() - 1 / 12) < 4 / np.sqrt(180 * 5000)
    # area, horizontal place and vertical place are independent
    parts = np.corrcoef([area, left / (40 - (right - left)), top / (20 - (bottom - top))])
    assert abs(parts - np.eye(3)).max() < 4 / np.sqrt(5000)
    # 0 is left and top, 1 right and bottom, and the caption's draw has no effect
    corner = View(shape=(8, 8), crop="random", scale=(0.5, 0.5))
    assert corner.box((40, 20), (8, 8), np.array([0.3, 0.3, 0.0, 1.0])) == pytest.approx((0.0, 10.0, 10.0, 20.0))
    assert corner.box((40, 20), (8, 8), np.array([0.9, 0.3, 1.0, 0.0])) == pytest.approx((30.0, 0.0, 40.0, 10.0))
    middle = View(shape=(8, 8), scale=(0.5, 0.5))
    assert {middle.box((40, 20), (8, 8), draw) for draw in draw_uniforms(0, 0, 0, 9)} == {(15.0, 5.0, 25.0, 15.0)}


def test_a_part_of_an_image_is_shown_at_the_size_stored(tmp_path):
    """A scaled crop equals Pillow's, also if the shard already has the requested shape."""
    manifest, made = colour_set(tmp_path, [(12, 12, 3)])
    found = Reader(manifest).read(np.arange(3), View(shape=(12, 12), scale=(0.5, 0.5)))
    for image, pixels in zip(found.images, made, strict=True):
        expected = Image.fromarray(pixels).resize((12, 12), Image.Resampling.LANCZOS, box=(3, 3, 9, 9))
        assert np.array_equal(image, expected)
    assert found.labels.tolist() == [-1, -1, -1]


def test_each_caption_is_chosen_as_often(tmp_path):
    manifest, _ = colour_set(tmp_path, [(6, 6, 4)], captions=("a", "b", "c"))
    reader = Reader(manifest)
    chosen = [reader.read(np.arange(4), None, draw_uniforms(0, step, 0, 4)).captions for step in range(300)]
    counts = np.array([sum(said.count(word) for said in chosen) for word in "abc"])
    assert ((counts - 400) ** 2 / 400).sum() < 2 + 4 * 2
    assert reader.read(np.arange(4)).captions == ["a"] * 4
    assert STILL[CAPTION] == 0.0


@pytest.mark.parametrize("world", [1, 2, 3])
def test_held_out_rows_are_validated_once(tmp_path, world):
    manifest, _ = colour_set(tmp_path, [(8, 18, 7), (12, 12, 9)])
    _, held = hold_out_rows(manifest.layouts("train"), 11, 0)
    shares = [list(held_out_batches(Reader(manifest), held, 4, View(), rank, world)) for rank in range(world)]
    assert sorted(row for share in shares for batch in share for row in batch.rows) == list(held)
    alone = {batch.index: batch for batch in held_out_batches(Reader(manifest), held, 4, View(), 0, 1)}
    for batch in (batch for share in shares for batch in share):
        assert torch.equal(batch.images, alone[batch.index].images)


def test_the_data_sets_own_split_is_used(tmp_path):
    """Rows of the validation shards are held out, and no other rows are."""
    plain = write_digit_shards(tmp_path / "s", rows=60, shard_rows=20)
    shards = (*plain.shards[:2], type(plain.shards[2])(**{**vars(plain.shards[2]), "split": "validation"}))
    manifest = Manifest(plain.path, 1, (8, 8), 1024, shards, labels=plain.labels)
    rows, held = split_rows(manifest, None, 0)
    assert sorted(rows[np.arange(rows.count)]) == list(range(40))
    assert list(held) == list(range(40, 60))
    assert len(split_rows(manifest, 7, 0)[1]) == 7
    assert len(split_rows(manifest, 0, 0)[1]) == 0
    rows, held = split_rows(plain, None, 0)
    assert (rows.count, len(held)) == (60, 0)


def test_windows_are_whole_row_groups(digits):
    assert shuffle_window(digits, 5000) == 4096
    assert shuffle_window(digits, 3) == 1024
    assert shuffle_window(digits, None) % 1024 == 0


@pytest.mark.parametrize(
    ("each", "group", "window"),
    [
        (100_000, 256, 2560),  # 2,684 rows are 256 MB
        (1_000_000, 256, 2048),  # never less than eight row groups
        (100, 1000, 1_048_000),  # never more than 2^20 rows
    ],
)
def test_a_window_holds_256_megabytes(each, group, window):
    shards = (Shard("a", 5_000_000, 5_000_000 * each, "0" * 64), Shard("b", 1_000_000, 1_000_000 * each, "1" * 64))
    assert shuffle_window(Manifest("x", 3, (8, 8), group, shards), None) == window


def test_the_manifest_survives_and_guards(tmp_path):
    manifest = write_digit_shards(tmp_path / "s")
    assert read_manifest(manifest.path) == manifest
    verify_shards(manifest, hashes=True)
    assert manifest.fingerprint != write_digit_shards(tmp_path / "t", rows=199).fingerprint
    assert open_dataset_reader(manifest.path, manifest.fingerprint).manifest == manifest
    with pytest.raises(ValueError, match="was changed"):
        open_dataset_reader(manifest.path, "0" * 16)


def test_captions_for_a_tokenizer_are_those_to_train_on(tmp_path):
    """Captions for a tokenizer are distinct, sorted, and come from as many training shards as needed."""
    manifest, _ = colour_set(tmp_path, [(6, 6, 3), (6, 8, 3)], captions=("b", "a", "", "b"))
    assert distinct_captions(manifest, 10) == ["a", "b"]
    assert distinct_captions(manifest, 1) == ["a"]
    apart = replace(manifest, shards=tuple(replace(shard, split="validation") for shard in manifest.shards))
    assert distinct_captions(apart, 10) == []


def test_a_shard_written_anew_is_recognised_by_its_size(tmp_path):
    """A rewritten shard with the same rows is detected by its size, without its hash."""
    manifest = write_digit_shards(tmp_path / "s")
    path = tmp_path / "s" / "train-00001.parquet"
    pq.write_table(pq.read_table(path), path, compression="none", row_group_size=1024)
    with pytest.raises(ValueError, match=r"train-00001\.parquet .* bytes, but .* in the manifest"):
        verify_shards(manifest, hashes=False)


def damage_hash(folder):
    """Flip one byte in the middle of the data."""
    path = folder / "train-00001.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 1
    path.write_bytes(bytes(data))


def other_columns(folder):
    """Write a shard with another column, and its hash and size into the manifest."""
    import hashlib

    pq.write_table(pa.table({"picture": [b"x"]}), folder / "train-00001.parquet")
    manifest, data = read_manifest(str(folder)), (folder / "train-00001.parquet").read_bytes()
    changed = replace(manifest.shards[1], sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    write_manifest(replace(manifest, shards=(manifest.shards[0], changed)))


def edit(folder, **changes):
    content = json.loads((folder / "manifest.json").read_text())
    content.update(changes)
    (folder / "manifest.json").write_text(json.dumps(content))


def cut(folder):
    path = folder / "train-00001.parquet"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("harm", "culprit"),
    [
        (damage_hash, "train-00001.parquet.*sha256"),
        (cut, "train-00001.parquet.*sha256"),
        (other_columns, "train-00001.parquet.*columns"),
        (lambda folder: (folder / "train-00000.parquet").unlink(), "train-00000.parquet.*missing"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "not valid JSON"),
        (lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe"), "not valid JSON"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "not a manifest"),
        (lambda folder: edit(folder, rows=5), "counts 5 rows"),
        (lambda folder: edit(folder, columns={"image": "string"}), "columns"),
        (lambda folder: edit(folder, row_group=7), "columns and rows"),
        (lambda folder: edit(folder, format=99), "newer raysde"),
        (lambda folder: edit(folder, format=1), "ingest again"),
        (lambda folder: edit(folder, channels=4), "channels"),
        (lambda folder: edit(folder, colour="red"), "colour"),
    ],
)
def test_damaged_data_sets_are_named(tmp_path, harm, culprit):
    write_digit_shards(tmp_path / "s")
    harm(tmp_path / "s")
    with pytest.raises(ValueError, match=culprit):
        verify_shards(read_manifest(str(tmp_path / "s")), hashes=True)


@pytest.mark.parametrize("harm", [damage_hash, cut, lambda folder: (folder / "train-00001.parquet").unlink()])
def test_shards_that_change_during_training_are_named(tmp_path, harm):
    """Page checksums detect a flipped bit also without hashes, so that no wrong picture is returned."""
    reader = Reader(write_digit_shards(tmp_path / "s", row_group=40))
    reader.read(np.arange(5))
    harm(tmp_path / "s")
    with pytest.raises(ValueError, match=r"train-00001\.parquet"):
        reader.read(np.arange(120, 200))


def test_a_damaged_shard_is_named_by_what_shows_rows(tmp_path):
    """A damaged shard is named also if its footer was cached before the damage."""
    reader = Reader(write_digit_shards(tmp_path / "s", row_group=40))
    reader.read(np.arange(100, 130))
    path = tmp_path / "s" / "train-00001.parquet"
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    path.write_bytes(bytes(footer) + whole[footer:])
    for show in (reader.about, Reader(reader.manifest).about, Reader(reader.manifest).image_file):
        with pytest.raises(ValueError, match=r"train-00001\.parquet .* is damaged"):
            show(199)


def test_a_label_that_the_manifest_does_not_list_is_named(digits):
    """A label outside the manifest, such as after classes were renamed in the manifest only, is named."""
    labels = load_digits()[1]
    reader = Reader(replace(digits, labels=("zero", *digits.labels[1:])))
    ones = np.flatnonzero(labels[:50] == 1)
    assert (reader.read(ones).labels == 1).all()
    row = int(np.flatnonzero(labels[:200] == 0)[-1])
    with pytest.raises(ValueError, match=rf"row {row} has the label '0', which {digits.path}/manifest\.json"):
        reader.read(np.array([5, row]))


def test_an_image_that_is_no_image_is_named(tmp_path):
    rows = [{"image": {"bytes": b"nothing", "path": None}, "captions": [], "label": None, "key": "odd.png", "width": 8,
             "height": 8, "hash": "0"}]  # fmt: skip
    shard = write_shard(
        pa.Table.from_pylist(rows, schema=SCHEMA), str(tmp_path), "a.parquet", row_group=8, image=(8, 8)
    )
    with pytest.raises(ValueError, match=r"row 0 \(odd.png\)"):
        Reader(Manifest(str(tmp_path), 3, (8, 8), 8, (shard,))).read(np.array([0]))


def test_sizes_of_their_own_need_a_size_to_train_on(tmp_path):
    images = [rng_image(0, 20), rng_image(1, 10)]
    rows = [{"image": {"bytes": encode_image(Image.fromarray(i), quality=None), "path": None}, "captions": [], "label":
             None, "key": "k", "width": 1, "height": 1, "hash": "0"} for i in images]  # fmt: skip
    shard = write_shard(pa.Table.from_pylist(rows, schema=SCHEMA), str(tmp_path), "a.parquet", row_group=8)
    reader = Reader(Manifest(str(tmp_path), 3, None, 8, (shard,)))
    with pytest.raises(ValueError, match="image_size"):
        reader.read(np.arange(2))
    got = reader.read(np.arange(2), View(shape=(10, 10)))
    assert np.array_equal(got.images[1], images[1])
    assert abs(got.images[0].mean() - images[0].mean()) < 4 * images[0].std() / np.sqrt(images[0].size)


def test_buckets_are_not_brought_to_another_size(tmp_path):
    """A recipe with another image size than the buckets' is refused, also for a single bucket."""
    alone, _ = colour_set(tmp_path / "alone", [(8, 18, 4)])
    square, _ = colour_set(tmp_path / "square", [(12, 12, 4)])
    for manifest, size, fits in [(alone, 6, False), (alone, 12, True), (square, 6, True)]:
        tree = {**small_recipe(manifest, tmp_path), "data": {"path": manifest.path, "image_size": size}}
        if fits:
            assert make_view(loading.parse_recipe(tree), manifest).shape == (size, size)
        else:
            with pytest.raises(ValueError, match=rf"data\.image_size={size}.*buckets about 12"):
                make_view(loading.parse_recipe(tree), manifest)


def test_the_judge_reads_real_digits():
    judge = DigitJudge()
    assert judge.held_out >= 0.985
    images, labels = load_digits()
    # real images are their own nearest neighbours, and noise is far from all
    assert judge.memorised_share(images[:50]) == 1.0
    assert judge.memorised_share(np.random.default_rng(0).integers(0, 256, (50, 8, 8))) == 0.0
    assert judge.accuracy(images[:50], (labels[:50] + 1) % 10) < 0.1


@pytest.mark.parametrize(("channels", "quality"), [(1, None), (3, None), (1, 90), (3, 90)])
def test_files_in_shards_decode_as_pillow_decodes_them(tmp_path, channels, quality):
    """PNG decodes exactly and JPEG up to one level, from Arrow's memory as in training."""
    pixels = rng_image(3, 40, channels)[:, :28]
    pixels = pixels[..., 0] if channels == 1 else pixels
    data = encode_image(Image.fromarray(pixels), quality=quality)
    row = {"image": {"bytes": data, "path": None}, "captions": [], "label": None, "key": "k", "width": 28, "height": 40,
           "hash": "0"}  # fmt: skip
    shard = write_shard(pa.Table.from_pylist([row] * 3, schema=SCHEMA), str(tmp_path), "a.parquet", row_group=2, image=(40, 28))  # fmt: skip
    got = Reader(Manifest(str(tmp_path), channels, (40, 28), 2, (shard,))).read(np.arange(3)).images
    import io

    expected = np.asarray(Image.open(io.BytesIO(data))).reshape(40, 28, channels).astype(int)
    assert np.abs(got.astype(int) - expected).max() <= (0 if quality is None else 1)
