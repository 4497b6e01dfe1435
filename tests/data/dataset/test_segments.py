"""Segments: each row group of a shard is read by one request, and only the columns that are used."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
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
from raysde.data.dataset.segments import FILE, read_index, segment_lengths, write_index, write_segments
from tests.support.counted_store import CountedStore, folder_store
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
def store(tmp_path) -> Iterator[CountedStore]:
    """Yield an object store of the files in the test's folder."""
    with folder_store(str(tmp_path)) as found:
        yield found
        row_groups._pool().shutdown()  # reads that a failed one left behind
        row_groups._pool.cache_clear()


@pytest.fixture
def far(manifest, store):
    """Return the data set as one on the object store."""
    return replace(manifest, path=store.uri("s"))


def shards_of(store: CountedStore) -> tuple[list[int], int]:
    """Return the bytes of the GETs of shards so far, and the number of other requests for shards."""
    return store.read(".parquet"), len([each for each in store.requests if each.kind not in ("GET", "LIST") and
                                        each.key.endswith(".parquet")])  # fmt: skip


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


def test_a_row_group_takes_one_request(manifest, far, store):
    """Every row group is read by one request for its segment, and the images equal those read through footers."""
    rows = np.random.default_rng(0).permutation(ROWS)
    found = Reader(far).read(rows)
    lengths = read_index(manifest.path, manifest.fingerprint, COUNTS).lengths
    reads, others = shards_of(store)
    assert sorted(reads) == sorted(lengths.tolist())
    assert others == 0
    (Path(manifest.path) / FILE).unlink()
    other = Reader(far).read(rows)
    assert np.array_equal(found.images, other.images)
    assert (found.captions, found.labels.tolist()) == (other.captions, other.labels.tolist())


def test_footers_and_open_files_are_kept(manifest, far, store):
    """Without segments a shard costs one request for its size and those of its footer, then one for a row group."""
    (Path(manifest.path) / FILE).unlink()
    reader = Reader(far)
    reader.read(np.array([0]))
    before = len(shards_of(store)[0])
    reader.read(np.array([11]))
    assert len(store.of("HEAD", ".parquet")) == 1
    assert len(shards_of(store)[0]) == before + 1


def test_row_groups_are_read_at_the_same_time(far, store, monkeypatch):
    """Four reads wait for each other, which only parallel ones survive; no more than ``AHEAD`` are in memory."""
    monkeypatch.setattr(row_groups, "AHEAD", 4)
    meeting, real = Barrier(4, timeout=20), RowGroups.read

    def read(self, shard, number, columns):
        meeting.wait()
        return real(self, shard, number, columns)

    monkeypatch.setattr(RowGroups, "read", read)
    reader = Reader(far, cache_bytes=1)
    reader.read(np.arange(0, 8 * GROUP, GROUP))
    reads, others = shards_of(store)
    assert (len(reads), others) == (8, 0)
    assert len(reader.groups.kept) == 2


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("harm", ["flipped", "cut", "cut in a segment", "exchanged", "missing"])
def test_a_damaged_segment_names_its_file(manifest, far, harm, remote):
    place = Path(manifest.file(1))
    content = bytearray(place.read_bytes())
    if harm == "flipped":
        content[content.index(b"\x89PNG") + 40] ^= 1
    elif harm == "cut":
        content = content[:100]
    elif harm == "cut in a segment":
        start, length = read_index(manifest.path, manifest.fingerprint, COUNTS).place(1, 6)
        content = content[: start + length - 1]
    elif harm == "exchanged":
        content = bytearray(Path(manifest.file(2)).read_bytes())
    place.write_bytes(content)
    if harm == "missing":
        place.unlink()
    said = "missing" if harm == "missing" else "is damaged|columns and rows"
    found = far if remote else manifest
    with pytest.raises(ValueError, match=rf"shard train-00001\.parquet of {re.escape(found.path)} .*({said})"):
        Reader(found).read(np.arange(65, 130))


def test_a_segment_of_other_rows_is_refused(manifest):
    """A shard was written again with a row less, and the index with it."""
    with pa.OSFile(manifest.file(1), "wb") as out:
        write_segments(pq.read_table(manifest.file(0)).slice(0, 64), out, row_group=GROUP)
    write_index(manifest.path, manifest.fingerprint, [segment_lengths(manifest.file(shard)) for shard in range(3)])
    reader = Reader(manifest)
    reader.read(np.arange(65, 125))
    with pytest.raises(ValueError, match=r"train-00001\.parquet .* does not have the manifest's columns and rows"):
        reader.read(np.arange(125, 130))


def test_only_the_columns_of_the_model_are_read(manifest, far, store, tmp_path):
    """Latents replace images, embeddings replace captions, and labels are read for a model with classes."""
    text = embed(manifest, text_encoder(tmp_path / "clip"))
    latents = encode(manifest, autoencoder(tmp_path / "vae"))
    rows = np.arange(ROWS)
    pixels = sum(Path(manifest.file(shard)).stat().st_size for shard in range(3))

    def read(**given) -> tuple[int, int, Reader]:
        """Return the bytes read from the shards, the number of shards opened, and the reader."""
        store.requests.clear()
        reader = Reader(far, **given)
        found = reader.read(rows)
        assert (found.moments is not None) == ("latents" in given)
        return sum(store.read(".parquet")), len({each.key for each in store.of("GET", ".parquet")}), reader

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
