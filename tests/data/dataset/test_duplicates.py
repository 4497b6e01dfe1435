"""Near duplicates among planted copies: every copy in the group of its original, distinct pictures in none."""

import gzip
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from raysde.data.dataset import duplicates, hash_files
from raysde.data.dataset.duplicates import Criterion, Gallery, find_duplicates
from raysde.data.dataset.hash_files import FOLDER, ImageHashes, compute_hashes, open_hashes, read_hashes
from raysde.data.ingest.convert import Rules
from raysde.data.ingest.samples import Sample
from raysde.images.perceptual import hash_thumbnails, make_thumbnail
from tests.support.copies import COPIES, cropped, draw_scene, png, resized
from tests.support.ingested import ingest_here
from tests.support.real import real
from tests.support.sources import Given

RULES = Rules(channels=3, size=48, row_group=16, shard_rows=40)


def image_hashes(pictures, pixels=None):
    thumbnails = np.stack([make_thumbnail(picture) for picture in pictures])
    pixels = [picture.width * picture.height for picture in pictures] if pixels is None else pixels
    return ImageHashes(thumbnails, hash_thumbnails(thumbnails), np.array(pixels), np.arange(len(pictures)))


def find(tmp_path, *blocks, criterion=Criterion(), **options):  # noqa: B008  # frozen
    return Gallery(blocks, tmp_path, **options).find(criterion)


def groups_of(found):
    return [set(group.tolist()) for group in found.groups()]


def test_copies_are_with_their_original_and_distinct_pictures_apart(tmp_path):
    """Ten of 40 pictures have four copies each; the groups are exactly these, however the rows are divided."""
    rng, pictures = np.random.default_rng(1), [draw_scene(seed) for seed in range(40)]
    rows = pictures + [make(each, rng) for each in pictures[:10] for make in COPIES.values()]
    found = find(tmp_path, image_hashes(rows))
    assert sorted(map(sorted, groups_of(found))) == [[n, *range(40 + 4 * n, 44 + 4 * n)] for n in range(10)]
    assert int(found.dropped.sum()) == 40
    # the enlarged copy has the most pixels
    assert sorted(set(found.kept.tolist())) == [41 + 4 * n for n in range(10)]
    again = find(tmp_path, image_hashes(rows[:7]), image_hashes(rows[7:33]), image_hashes(rows[33:]))
    for name in ("rows", "kept", "distances", "pairs", "lengths"):
        assert np.array_equal(getattr(found, name), getattr(again, name))


def test_of_equal_sizes_the_first_row_is_kept_and_of_ranks_the_lower(tmp_path):
    same = [draw_scene(0)] * 3
    assert find(tmp_path, image_hashes(same)).kept.tolist() == [0, 0, 0]
    assert find(tmp_path, image_hashes(same, [5, 9, 9])).kept.tolist() == [1, 1, 1]
    ranked = find(tmp_path, image_hashes(same[:1], [1]), image_hashes(same[1:], [9, 9]), priority=lambda number: number)
    assert ranked.kept.tolist() == [0, 0, 0]


def test_many_rows_of_one_hash_are_one_group(tmp_path):
    """A thousand blank pictures and twice twenty equal ones take a number of pairs that grows with the rows."""
    blank = [Image.new("RGB", (32, 32), (200, 200, 200))] * 1000
    found = find(tmp_path, image_hashes([*blank, *[draw_scene(1)] * 20, *[draw_scene(2)] * 20]))
    assert [len(group) for group in found.groups()] == [1000, 20, 20]
    assert len(found.pairs) == 999 + 19 + 19


def test_mirror_images_count_if_they_are_wanted(tmp_path):
    """Mirrored copies, also cropped ones, are found with ``mirrored`` alone, which finds the others as before."""
    rng, pictures = np.random.default_rng(2), [draw_scene(seed) for seed in range(20)]
    turned = [each.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for each in pictures[:10]]
    rows = pictures + turned[:5] + [COPIES["cropped"](each, rng) for each in turned[5:]]
    assert not groups_of(find(tmp_path, image_hashes(rows)))
    found = find(tmp_path, image_hashes(rows), criterion=Criterion(mirrored=True))
    assert sorted(map(sorted, groups_of(found))) == [[n, 20 + n] for n in range(10)]
    assert found.distances.max() <= Criterion().threshold


def test_no_digit_nearly_repeats_another(tmp_path):
    """At most 0.1% of 1,797 distinct digits, one, is found; a hundred copies are all found among them."""
    rng = np.random.default_rng(3)
    levels = (load_digits().images * 15.9).astype(np.uint8)
    digits = [Image.fromarray(each).resize((32, 32), Image.Resampling.BICUBIC) for each in levels]
    assert find(tmp_path, image_hashes(digits)).dropped.sum() <= 1
    copies = [list(COPIES.values())[n % 4](digits[n], rng) for n in range(100)]
    assert np.isin(np.arange(1797, 1897), find(tmp_path, image_hashes(digits + copies)).rows).mean() >= 0.95


@pytest.mark.slow
def test_few_of_ten_thousand_clothes_nearly_repeat_another(tmp_path):
    """At most 0.1% of the test images of Fashion-MNIST are left out. Of 300 planted copies, at least 95% are found."""
    file = real("fashion-mnist") / "t10k-images-idx3-ubyte.gz"
    levels = np.frombuffer(gzip.decompress(file.read_bytes())[16:], np.uint8).reshape(-1, 28, 28)
    clothes = [Image.fromarray(each) for each in levels]
    assert find(tmp_path, image_hashes(clothes)).dropped.sum() <= 10
    rng = np.random.default_rng(6)
    kinds = [COPIES["larger"], COPIES["jpeg"], lambda picture, rng: cropped(picture, 0.03, rng)]
    copies = [kinds[n % 3](clothes[n], rng) for n in range(300)]
    assert np.isin(np.arange(1000, 1300), find(tmp_path, image_hashes(clothes[:1000] + copies)).rows).mean() >= 0.95


def test_a_pair_that_is_not_confirmed_is_none(tmp_path):
    rows = [draw_scene(0), draw_scene(1), resized(draw_scene(0), 0.5), resized(draw_scene(1), 0.5)]
    gallery = Gallery([image_hashes(rows)], tmp_path)
    assert groups_of(gallery.find(Criterion(), lambda one, two: one != 0)) == [{1, 3}]


@pytest.mark.parametrize("threshold", [0.0, -1.0, 0.6, float("nan")])
def test_thresholds_out_of_range_are_refused(threshold):
    with pytest.raises(ValueError, match=r"must be above 0 and at most 0\.5, got"):
        Criterion(threshold)


@pytest.fixture
def shards(tmp_path):
    """A data set of 60 pictures in three parts, the last 20 of which are copies of the first at half the size."""
    pictures = [draw_scene(seed) for seed in range(40)]
    pictures += [resized(each, 0.5) for each in pictures[:20]]
    samples = [Sample(f"{n:03d}", png(each)) for n, each in enumerate(pictures)]
    parts = [Given(tuple(samples[start : start + 20])) for start in range(0, 60, 20)]
    return ingest_here(parts, tmp_path / "shards", replace(RULES, validation=0.3)), tmp_path / "shards"


def test_an_ingest_stores_the_hashes_of_the_stored_images(shards):
    """Hashes beside each shard are those of its images, with the source's pixels and positions."""
    manifest, folder = shards
    for number, shard in enumerate(manifest.shards):
        stored, computed = read_hashes(str(folder), shard), compute_hashes(manifest, number)
        assert np.array_equal(stored.thumbnails, computed.thumbnails)
        assert np.array_equal(stored.hashes, computed.hashes)
        keys = [int(key) for key in pq.read_table(folder / shard.file).column("key").to_pylist()]
        assert stored.samples.tolist() == [key % 20 for key in keys]
        assert stored.pixels.tolist() == [32 * 32 if key >= 40 else 64 * 64 for key in keys]
        assert set(computed.pixels.tolist()) == {48 * 48}


def test_a_data_set_without_hashes_has_the_same_groups(shards, monkeypatch):
    """Files that are missing, damaged or of another shard are not used; the images give the same groups."""
    manifest, folder = shards
    found = find_duplicates(manifest, Criterion())
    assert len(found.groups()) == 20
    files = sorted((folder / FOLDER).iterdir())
    files[0].write_bytes(files[0].read_bytes()[:-20])
    files[1].write_bytes(files[2].read_bytes())
    files[2].unlink()
    assert [read_hashes(str(folder), shard) is None for shard in manifest.shards].count(True) == 3
    again = find_duplicates(manifest, Criterion())
    assert sorted(map(sorted, groups_of(again))) == sorted(map(sorted, groups_of(found)))
    monkeypatch.setattr(hash_files, "FORMAT", "2")
    assert all(read_hashes(str(folder), shard) is None for shard in manifest.shards)


def test_a_damaged_shard_is_named(shards):
    manifest, folder = shards
    (folder / FOLDER / manifest.shards[0].file).unlink()
    (folder / manifest.shards[0].file).write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=rf"shard {manifest.shards[0].file} of \S+ cannot be read"):
        open_hashes(manifest, 0)


def test_few_rows_are_measured_at_a_time_and_the_groups_are_the_same(tmp_path, monkeypatch):
    rng, pictures = np.random.default_rng(4), [draw_scene(seed) for seed in range(15)]
    rows = image_hashes(pictures + [make(each, rng) for each in pictures for make in COPIES.values()])
    found = find(tmp_path, rows)
    monkeypatch.setattr(duplicates, "MEASURED", 7)
    monkeypatch.setattr(duplicates, "AT_ONCE", 11)
    assert groups_of(find(tmp_path, rows)) == groups_of(found)


def test_pictures_of_one_level_and_one_pixel_have_thumbnails():
    """The smallest and the thinnest picture have a thumbnail like any other."""
    for shape in ((1, 1), (1, 300), (300, 1)):
        picture = Image.fromarray(np.full(shape, 7, np.uint8))
        assert make_thumbnail(picture).tolist() == [[7] * 16] * 16
