"""Verification by listings: what is missing or replaced is named, and what cannot be compared is said."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.fs as pafs
import pytest

from raysde.config import loading
from raysde.data.dataset import verify
from raysde.data.dataset.manifest import Manifest, read_manifest, write_manifest
from raysde.data.dataset.shard_table import Shard
from raysde.data.dataset.verify import choose_verification, record_etags, verify_here, verify_listing, without_options
from raysde.io import listing, shared_file
from raysde.io.filesystems import child_path, open_filesystem, read_bytes, write_bytes
from raysde.runs.run import check_run, open_run
from tests.support.counted_store import CountedStore, Objects, moto_store
from tests.support.digits import write_digit_shards
from tests.support.encoders import autoencoder
from tests.support.precomputed import encode
from tests.support.training import small_recipe


@pytest.fixture(scope="module")
def place():
    with moto_store() as store:
        yield store.uri


@pytest.fixture
def photos(place, tmp_path, monkeypatch) -> Manifest:
    """Return digits on the object store, with their entity tags."""
    monkeypatch.setattr(shared_file.tempfile, "gettempdir", lambda: str(tmp_path))
    return upload(write_digit_shards(tmp_path / "shards"), place(tmp_path.name))


def upload(manifest: Manifest, path: str) -> Manifest:
    system, inside = open_filesystem(path)
    pafs.copy_files(manifest.path, inside, destination_filesystem=system)
    tagged = record_etags(replace(manifest, path=path))
    write_manifest(tagged)
    return read_manifest(path)


def flip(path: str) -> None:
    """Change one bit of a file, whose size stays."""
    content = bytearray(read_bytes(path))
    content[len(content) // 4] ^= 1
    write_bytes(path, bytes(content))


def test_a_shard_of_the_same_size_in_place_of_another_is_refused(photos):
    assert len(set(photos.shards.etags) - {None}) == 2
    assert verify_listing(photos) == []
    flip(photos.file(1))
    with pytest.raises(ValueError, match=r"train-00001\.parquet .* was replaced after the ingest.*data\.verify=hash"):
        verify_listing(photos)
    with pytest.raises(ValueError, match=r"train-00001\.parquet .* sha256"):
        verify_here(photos, (), "hash")


def test_missing_and_longer_shards_are_refused(photos):
    content = read_bytes(photos.file(0))
    write_bytes(photos.file(0), content + b"x")
    with pytest.raises(
        ValueError, match=rf"train-00000\.parquet .* has {len(content) + 1} bytes, but {len(content)} in"
    ):
        verify_listing(photos)
    with pytest.raises(ValueError, match=r"train-00000\.parquet .* has .* bytes"):
        record_etags(photos)
    write_bytes(photos.file(0), content)
    system, inside = open_filesystem(photos.file(1))
    system.delete_file(inside)
    with pytest.raises(ValueError, match=r"train-00001\.parquet .* is missing"):
        verify_listing(photos)


def test_what_a_listing_cannot_compare_is_said(photos, place, tmp_path, monkeypatch):
    """Tags of another place, of no place, or that nobody lists: sizes alone are compared, and a remark says so."""
    copy = upload_as_it_is(photos, place(f"{tmp_path.name}-copy"))
    (said,) = verify_listing(copy)
    assert "sizes only" in said
    assert f"those at {without_options(photos.path)}" in said
    untagged = replace(photos, shards=photos.shards.with_etags([None] * 2), etags_of="")
    (said,) = verify_listing(untagged)
    assert "the entity tags in the manifest are none" in said
    flip(photos.file(1))
    assert len(verify_listing(untagged)) == 1
    monkeypatch.setattr(listing, "lists_etags", lambda path: False)
    (said,) = verify_listing(photos)
    assert "raysde[s3]" in said
    assert record_etags(photos).etags_of == ""


def upload_as_it_is(manifest: Manifest, path: str) -> Manifest:
    """Copy a data set with its manifest to another place."""
    before, inside = open_filesystem(manifest.path)
    system, there = open_filesystem(path)
    pafs.copy_files(inside, there, source_filesystem=before, destination_filesystem=system)
    return read_manifest(path)


def test_a_run_lists_an_object_store_and_hashes_a_folder(photos, digits, tmp_path):
    """By default; the other verifications are used where the recipe asks for them, and remarks reach the user."""
    assert choose_verification(None, photos.path) == "listing"
    assert choose_verification(None, digits.path) == "hash"
    asked = []

    def note(manifest, precomputed, verification):
        asked.append(verification)
        return ["a remark"]

    for manifest, usual in ((photos, "listing"), (digits, "hash")):
        for wanted in ("hash", "schema", "listing", None):
            tree = small_recipe(manifest, tmp_path)
            tree["data"] = {"path": manifest.path, "verify": wanted}
            run = open_run(loading.parse_recipe(tree))
            assert check_run(run, note) == ["a remark"]
            assert asked.pop() == (wanted or usual)


def test_a_folder_on_disk_can_be_listed(tmp_path):
    """On disk there are no tags: the size and the presence of each shard are compared."""
    manifest = write_digit_shards(tmp_path)
    assert record_etags(manifest) == manifest
    assert "sizes only" in verify_here(manifest, (), "listing")[0]
    (tmp_path / "train-00001.parquet").unlink()
    with pytest.raises(ValueError, match=r"train-00001\.parquet .* is missing"):
        verify_here(manifest, (), "listing")


def test_a_precomputed_folder_is_listed_too(tmp_path):
    manifest = write_digit_shards(tmp_path / "s", rows=40, shard_rows=20)
    latents = encode(manifest, autoencoder(tmp_path / "vae"))
    assert len(verify_here(manifest, (latents,), "listing")) == 1
    path = Path(latents.path, latents.files[1].file)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=rf"file train-00001\.parquet of \S+latents-\S+ has {len(whole) - 1} bytes"):
        verify_here(manifest, (latents,), "listing")
    path.unlink()
    with pytest.raises(ValueError, match=r"file train-00001\.parquet of \S+latents-\S+ is missing"):
        verify_here(manifest, (latents,), "listing")


def test_the_first_of_many_damaged_shards_is_named(tmp_path):
    """Threads check shards in any order; the message is the same each time."""
    manifest = write_digit_shards(tmp_path, rows=200, shard_rows=4)
    for number in (7, 20, 40):
        flip(manifest.file(number))
    for _ in range(5):
        with pytest.raises(ValueError, match=r"train-00007\.parquet .* sha256"):
            verify_here(manifest, (), "hash")


def test_five_thousand_shards_take_some_pages(monkeypatch):
    """About one request per 1,000 objects and range, whatever else is in the bucket; each shard is compared."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    names = [f"train-{number:06d}.parquet" for number in range(5000)]
    beside = [f"photos/{name}" for name in ("manifest.json", "report.json", "shards.arrow")]
    shards = [Shard(name, 1, 9, "0" * 64) for name in names]
    with CountedStore(Objects([*(f"photos/{name}" for name in names), *beside, "a", "z"], 9)) as store:
        manifest = record_etags(Manifest(store.uri("photos"), 3, (8, 8), 7, shards))
        assert 5 <= len(store.requests) <= 12
        assert {each.kind for each in store.requests} == {"LIST"}
        assert verify_listing(manifest) == []
        for number in np.random.default_rng(0).choice(5000, 20, replace=False).tolist():
            tags = manifest.shards.etags
            tags[number] = "0" * 32
            with pytest.raises(ValueError, match=names[number]):
                verify_listing(replace(manifest, shards=manifest.shards.with_etags(tags)))


def test_a_remote_file_of_shards_is_downloaded_once_per_machine(photos, place, tmp_path, monkeypatch):
    """Later openings, of other processes too, map the copy; a damaged copy is replaced."""
    (copy,) = [path for path in Path(tmp_path).glob("raysde-files-*/*") if path.suffix != ".lock"]
    system, inside = open_filesystem(child_path(photos.path, "shards.arrow"))
    system.delete_file(inside)
    assert read_manifest(photos.path) == photos
    whole = copy.read_bytes()
    write_bytes(child_path(photos.path, "shards.arrow"), whole)
    copy.write_bytes(whole[:-8] + bytes(8))
    assert read_manifest(photos.path) == photos
    assert copy.read_bytes() == whole
    assert verify.without_options("s3://k:s@bucket/photos/?region=x") == "s3://bucket/photos"
