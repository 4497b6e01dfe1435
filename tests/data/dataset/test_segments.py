"""Segments: each row group of a shard is read by one request, and only the columns that are used."""

import shutil
from pathlib import Path
from threading import Barrier

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysde.data.dataset import row_groups, segments
from raysde.data.dataset.manifest import SCHEMA
from raysde.data.dataset.reader import Reader
from raysde.data.dataset.row_groups import RowGroups
from raysde.data.dataset.segments import FILE, read_index, segment_lengths, write_index
from tests.support.counted_store import CountedStore, counted_filesystem
from tests.support.digits import write_digit_shards
from tests.support.encoders import autoencoder, text_encoder
from tests.support.precomputed import embed, encode

ROWS, GROUP, COUNTS = 190, 10, np.array([7, 7, 6])


@pytest.fixture
def manifest(tmp_path):
    """Return a data set of three shards with short last row groups, and its index of segments."""
    found = write_digit_shards(tmp_path / "s", rows=ROWS, shard_rows=65, row_group=GROUP)
    write_index(found.path, found.fingerprint, [segment_lengths(found.file(shard)) for shard in range(3)])
    return found


@pytest.fixture
def store(monkeypatch) -> CountedStore:
    """Return the counted store that reads row groups from now on."""
    made = CountedStore(Path)
    monkeypatch.setattr(row_groups, "open_filesystem", counted_filesystem(made))
    return made


def test_each_segment_is_a_parquet_file(manifest):
    """A shard is an ordinary Parquet file, and the bytes of each segment are one of a single row group."""
    places = read_index(manifest.path, manifest.fingerprint, COUNTS)
    for shard in range(3):
        content, whole = Path(manifest.file(shard)).read_bytes(), pq.read_table(manifest.file(shard))
        assert pq.ParquetFile(manifest.file(shard)).num_row_groups == COUNTS[shard]
        for number in range(COUNTS[shard]):
            start, length = places.place(shard, number)
            found = pq.read_table(pa.BufferReader(content[start : start + length]))
            assert found.equals(whole.slice(number * GROUP, GROUP))


def test_files_of_other_writers_have_no_segments(manifest):
    pq.write_table(pq.read_table(manifest.file(0)), manifest.file(0), row_group_size=GROUP)
    assert segment_lengths(manifest.file(0)) == []
    pq.write_table(SCHEMA.empty_table(), manifest.file(0))
    assert segment_lengths(manifest.file(0)) == []


def test_an_index_of_other_data_is_refused(manifest, tmp_path):
    assert read_index(str(tmp_path), "x", COUNTS) is None
    for fingerprint, counts in (("x", COUNTS), (manifest.fingerprint, COUNTS + 1)):
        with pytest.raises(ValueError, match=rf"{FILE}: it belongs to another data set; remove it"):
            read_index(manifest.path, fingerprint, counts)
    (tmp_path / "s" / FILE).write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match="remove it"):
        Reader(manifest)


def test_a_row_group_takes_one_request(manifest, store):
    """Every row group is read by one request for its segment, and the images equal those read through footers."""
    rows = np.random.default_rng(0).permutation(ROWS)
    found = Reader(manifest).read(rows)
    assert len(store.reads) == COUNTS.sum()
    assert store.heads == 3
    lengths = read_index(manifest.path, manifest.fingerprint, COUNTS).lengths
    assert sorted(store.reads) == sorted(lengths.tolist())
    (Path(manifest.path) / FILE).unlink()
    other = Reader(manifest).read(rows)
    assert np.array_equal(found.images, other.images)
    assert (found.captions, found.labels.tolist()) == (other.captions, other.labels.tolist())


def test_footers_and_open_files_are_kept(manifest, store):
    """Without segments a shard costs one request for its size and those of its footer, then one for a row group."""
    (Path(manifest.path) / FILE).unlink()
    reader = Reader(manifest)
    reader.read(np.array([0]))
    before = len(store.reads)
    reader.read(np.array([11]))
    assert store.heads == 1
    assert len(store.reads) == before + 1


def test_row_groups_are_read_at_the_same_time(manifest, store, monkeypatch):
    """Four reads wait for each other, which only parallel ones survive; no more than ``AHEAD`` are in memory."""
    monkeypatch.setattr(row_groups, "AHEAD", 4)
    meeting, real = Barrier(4, timeout=20), RowGroups.read

    def read(self, shard, number, columns):
        meeting.wait()
        return real(self, shard, number, columns)

    monkeypatch.setattr(RowGroups, "read", read)
    reader = Reader(manifest, cache_bytes=1)
    reader.read(np.arange(0, 8 * GROUP, GROUP))
    assert len(store.reads) == 8
    assert len(reader.groups.kept) == 2


@pytest.mark.parametrize("harm", ["flipped", "cut", "exchanged", "missing"])
def test_a_damaged_segment_names_its_file(manifest, harm):
    place = Path(manifest.file(1))
    content = bytearray(place.read_bytes())
    if harm == "flipped":
        content[content.index(b"\x89PNG") + 40] ^= 1
    elif harm == "cut":
        content = content[:100]
    elif harm == "exchanged":
        content = bytearray(Path(manifest.file(2)).read_bytes())
    place.write_bytes(content)
    if harm == "missing":
        place.unlink()
    said = "missing" if harm == "missing" else "is damaged|columns and rows"
    with pytest.raises(ValueError, match=rf"shard train-00001\.parquet of {manifest.path} .*({said})"):
        Reader(manifest).read(np.arange(65, 130))


def test_only_the_columns_of_the_model_are_read(manifest, store, tmp_path):
    """Latents replace images, embeddings replace captions, and labels are read for a model with classes."""
    text = embed(manifest, text_encoder(tmp_path / "clip"))
    latents = encode(manifest, autoencoder(tmp_path / "vae"))
    rows = np.arange(ROWS)
    pixels = sum(Path(manifest.file(shard)).stat().st_size for shard in range(3))

    def read(**given) -> tuple[int, int, Reader]:
        """Return the bytes read from the shards, the number of shards opened, and the reader."""
        opened: list[Path] = []
        store.locate = lambda path: opened.append(Path(path)) or Path(path)
        reader = Reader(manifest, **given)
        before = len(store.reads)
        found = reader.read(rows)
        assert (found.moments is not None) == ("latents" in given)
        shards = sum(place.parent == Path(manifest.path) for place in opened)
        return sum(store.reads[before:]), shards, reader

    whole, shards, _ = read()
    assert shards == 3
    assert whole > 0.9 * pixels - 3 * 4000
    assert read(latents=latents, text=text, fields=())[1] == 0
    _, shards, reader = read(latents=latents, text=text, fields={"labels"})
    assert shards == 3
    assert reader.groups.columns == ["label"]
    assert (reader.read(rows).labels >= 0).all()
    assert read(latents=latents)[2].groups.columns == ["captions", "label"]
    assert read(text=text)[2].groups.columns == ["image.bytes", "label"]
    assert read(fields={"captions"})[2].groups.columns == ["image.bytes", "captions"]


def test_a_shard_copied_elsewhere_keeps_its_segments(manifest, tmp_path):
    shutil.copytree(manifest.path, tmp_path / "copy")
    assert read_index(str(tmp_path / "copy"), manifest.fingerprint, COUNTS).place(0, 1)[0] > 0
    assert Path(manifest.file(0)).read_bytes()[:4] == segments.MAGIC
