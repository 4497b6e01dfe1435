"""The file of shards: what it says is read again, damage is named, older formats stay readable, and memory is small."""

import hashlib
import json
import pickle
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from raysde.data.dataset.manifest import FORMAT, SHARDS, Manifest, read_manifest, write_manifest
from raysde.data.dataset.shard_table import TABLE, Shard, Shards
from tests.support.digits import write_digit_shards
from tests.support.memory import peak_bytes


def some_shards(count: int) -> list[Shard]:
    """Return shards of every kind: both splits, images of one size and of several, with and without an entity tag."""
    return [
        Shard(f"s-{n:05d}.parquet", n % 7, 100 + n, hashlib.sha256(b"%d" % n).hexdigest(),
              "train" if n < count - 3 else "validation", None if n % 3 == 0 else (8, 8 + n % 2),
              f"{n:032x}" if n % 2 else None)
        for n in range(count)
    ]  # fmt: skip


def test_a_table_holds_its_shards():
    listed = some_shards(20)
    table = Shards.of(listed)
    again = Shards.from_buffer(pa.py_buffer(table.to_bytes()))
    for found in (table, again, pickle.loads(pickle.dumps(again))):
        assert list(found) == listed
        assert found == table
        assert found[-1] == listed[-1]
        assert list(found[3:8]) == listed[3:8]
        assert list(found[8:3:-2]) == listed[8:3:-2]
        assert found.rows.tolist() == [shard.rows for shard in listed]
        assert found.bytes.tolist() == [shard.bytes for shard in listed]
        assert found.etags == [shard.etag for shard in listed]
        assert found.in_split("validation").tolist() == [False] * 17 + [True] * 3
        assert "".join(found.hexadecimal()) == "".join(shard.sha256 for shard in listed)
        shapes, places = found.buckets()
        assert shapes == [None, (8, 8), (8, 9)]
        assert [shapes[place] for place in places] == [shard.image for shard in listed]
    assert table != Shards.of([*listed[:-1], replace(listed[-1], etag="other")])
    assert [shard.etag for shard in table.with_etags(["x"] * 20)] == ["x"] * 20
    with pytest.raises(IndexError):
        table[20]


def test_hashes_of_a_part_of_a_table_are_its_own(monkeypatch):
    """A slice shares the memory of the whole, and hexadecimal text is made in pieces."""
    monkeypatch.setattr("raysde.data.dataset.shard_table.PIECE", 4)
    listed = some_shards(20)
    part = Shards(Shards.of(listed).table.slice(5, 9))
    assert "".join(part.hexadecimal()) == "".join(shard.sha256 for shard in listed[5:14])


@pytest.mark.parametrize("labels", [(), ("a", "b")])
def test_fingerprints_are_the_same_in_every_format(tmp_path, labels):
    """The fingerprint is a hash over the shards' hashes in hexadecimal, followed from format 3 on by the class names."""
    manifest = Manifest(str(tmp_path), 3, (8, 8), 7, some_shards(30), labels, 5, {"x": 1})
    said = "".join(shard.sha256 for shard in manifest.shards)
    for number in (2, 3, FORMAT):
        write_manifest(replace(manifest, format=number))
        found = read_manifest(str(tmp_path))
        expected = said + (json.dumps(labels) if labels and number > 2 else "")
        assert found.fingerprint == hashlib.sha256(expected.encode()).hexdigest()[:16]
        assert [replace(shard, etag=None) for shard in found.shards] == [
            replace(shard, etag=None) for shard in manifest.shards
        ]
        assert (found.labels, found.rows, found.statistics, found.format) == (labels, manifest.rows, {"x": 1}, number)
        listed = json.loads((tmp_path / "manifest.json").read_text())["shards"]
        assert isinstance(listed, list) == (number < 4)


def table_with(**columns) -> bytes:
    """Return the file of three shards with other columns."""
    table = Shards.of(some_shards(3)).table
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, TABLE.field(place), pa.array(values, TABLE.field(name).type))
    return bytes(Shards(table).to_bytes())


def other_schema() -> bytes:
    sink = pa.BufferOutputStream()
    table = Shards.of(some_shards(3)).table.drop_columns(["etag"])
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_batch(table)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("content", "culprit"),
    [
        (b"", "damaged"),
        (b"nothing of Arrow's", "damaged"),
        (other_schema(), "its columns"),
        (table_with(file=["a", "../b", "c"]), "shard file '../b'"),
        (table_with(file=["a", "b\\c", "d"]), "shard file"),
        (table_with(file=["a", "b\n", "c"]), "shard file"),
        (table_with(file=["a", None, "c"]), "a shard has no file"),
        (table_with(rows=[1, -1, 1]), r"shard s-00001\.parquet: rows"),
        (table_with(rows=[2**61] * 3), "too many rows"),
        (table_with(bytes=[1, 1, 2**62]), r"shard s-00002\.parquet: bytes"),
        (table_with(height=[None, 0, 8]), r"shard s-00001\.parquet: height"),
        (table_with(width=[8, 8, 8]), "a height without a width"),
    ],
)
def test_a_file_of_shards_with_what_cannot_be_is_refused(tmp_path, content, culprit):
    """The manifest names the file by its hash, as if both were made by another program."""
    write_manifest(Manifest(str(tmp_path), 3, (8, 8), 7, some_shards(3)))
    (tmp_path / SHARDS).write_bytes(content)
    listed = json.loads((tmp_path / "manifest.json").read_text())
    listed["shards"]["sha256"] = hashlib.sha256(content).hexdigest()
    (tmp_path / "manifest.json").write_text(json.dumps(listed))
    with pytest.raises(ValueError, match=rf"manifest\.json is not a manifest: shards\.arrow .*{culprit}"):
        read_manifest(str(tmp_path))


def test_a_file_of_shards_of_another_manifest_is_refused(tmp_path):
    """A flipped bit, a missing file and the file of another data set are named, before any shard is read."""
    write_digit_shards(tmp_path / "a")
    whole = (tmp_path / "a" / SHARDS).read_bytes()
    write_digit_shards(tmp_path / "b", rows=150)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for content in (bytes(flipped), whole[:-1], (tmp_path / "b" / SHARDS).read_bytes()):
        (tmp_path / "a" / SHARDS).write_bytes(content)
        with pytest.raises(ValueError, match=r"shards\.arrow beside it is damaged: it has sha256"):
            read_manifest(str(tmp_path / "a"))
    (tmp_path / "a" / SHARDS).unlink()
    with pytest.raises(ValueError, match=r"shards\.arrow beside it is missing"):
        read_manifest(str(tmp_path / "a"))


def test_an_open_data_set_takes_a_few_bytes_a_shard(tmp_path):
    """Besides the mapped file, a process keeps numbers of rows and no objects: format 3 took 900 bytes a shard."""

    def look_up():
        manifest = read_manifest(str(tmp_path))
        return manifest.fingerprint, manifest.starts, manifest.shapes, manifest.rows_in("train"), manifest.shards[50]

    taken = []
    for count in (100, 20_100):
        write_manifest(Manifest(str(tmp_path), 3, (8, 8), 7, some_shards(count)))
        taken.append(peak_bytes(look_up))
    assert taken[1] - taken[0] < 120 * 20_000


def test_the_file_is_mapped_and_not_read_into_memory(tmp_path):
    """All processes of a node share the pages of the file: Arrow allocates nothing for its columns."""
    write_manifest(Manifest(str(tmp_path), 3, (8, 8), 7, some_shards(1000)))
    before = pa.total_allocated_bytes()
    manifest = read_manifest(str(tmp_path))
    assert pa.total_allocated_bytes() - before < 1000
    address = manifest.shards.rows.ctypes.data
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(number, 16) for number in line.split()[0].split("-"))
        if first <= address < last:
            assert line.endswith(f"/{SHARDS}")
            return
    raise AssertionError("the column of rows is nowhere in memory")
