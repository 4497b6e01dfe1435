"""The cache of row groups: eviction, repeated reads, and errors that name the file."""

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysde.data.dataset import row_groups
from raysde.data.dataset.manifest import SCHEMA
from raysde.data.dataset.reader import Reader
from raysde.data.dataset.row_groups import RowGroups
from tests.support.digits import write_digit_shards

ROWS, GROUP = 190, 10


class Counted(RowGroups):
    """A cache that records the row groups it reads from files."""

    def __init__(self, manifest, **settings) -> None:
        super().__init__(manifest, manifest.path, SCHEMA, lambda table: table.column("key").to_pylist(), **settings)
        self.loads: list[tuple[int, int]] = []

    def read(self, shard, number, columns):
        self.loads.append((shard, number))
        return super().read(shard, number, columns)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Return a data set of three shards with short last row groups, shared by tests."""
    return write_digit_shards(tmp_path_factory.mktemp("groups") / "s", rows=ROWS, shard_rows=65, row_group=GROUP)


@pytest.fixture
def own(tmp_path):
    """Return such a data set of a test's own, which it may change."""
    return write_digit_shards(tmp_path / "s", rows=ROWS, shard_rows=65, row_group=GROUP)


def sizes_of(manifest) -> dict[tuple[int, int], int]:
    """Return the bytes of each row group, computed by pyarrow."""
    files = [pq.ParquetFile(manifest.file(shard)) for shard in range(len(manifest.shards))]
    return {
        (shard, n): file.read_row_group(n).nbytes
        for shard, file in enumerate(files)
        for n in range(file.num_row_groups)
    }


def test_any_rows_come_with_their_row_group(manifest):
    """Rows come with their requested position, across files and short row groups, one row group after another."""
    rows = np.random.default_rng(0).integers(0, ROWS, 400)
    found = RowGroups(manifest, manifest.path, SCHEMA, lambda table: table.column("key").to_pylist(), budget=1)
    held = list(found.holding(rows))
    assert sorted(place for place, _, _ in held) == list(range(400))
    for place, keys, inside in held:
        assert keys[inside] == f"{rows[place]:04d}.png"
    groups = [id(keys) for _, keys, _ in held]
    assert 1 + sum(a != b for a, b in zip(groups[1:], groups, strict=False)) == len(sizes_of(manifest))


@pytest.mark.parametrize("share", [0.15, 0.5, 2.0])
def test_those_used_last_stay_within_the_budget(manifest, share):
    """The cache misses where an LRU cache misses (Mattson et al. 1970, stack distances).

    A row group is read again if it and the row groups used since its last use exceed the budget."""
    sizes = sizes_of(manifest)
    budget = int(share * sum(sizes.values()))
    groups, kept = list(sizes), Counted(manifest, budget=budget)
    used: list[tuple[int, int]] = []
    for choice in np.random.default_rng(1).geometric(0.15, 600) % len(groups):
        one, before = groups[choice], len(kept.loads)
        assert kept.group(*one)[0] == f"{manifest.starts[one[0]] + one[1] * GROUP:04d}.png"
        since = {one, *used[len(used) - used[::-1].index(one) :]} if one in used else None
        stayed = since is not None and (len(since) <= 2 or sum(sizes[each] for each in since) <= budget)
        assert (len(kept.loads) == before) == stayed
        used.append(one)
        assert kept.bytes == sum(sizes[each] for each in kept.kept) <= budget
    assert (len(kept.loads) == len(set(used))) == (share > 1)


def test_two_row_groups_larger_than_the_budget_stay(manifest):
    """Two row groups stay, so that rows requested from both in turn are not read again; a third evicts the older."""
    kept = Counted(manifest, budget=1)
    for one in [(0, 0), (1, 3), (0, 0), (1, 3), (2, 0), (1, 3), (0, 0)]:
        assert len(kept.group(*one)) == GROUP
    assert kept.loads == [(0, 0), (1, 3), (2, 0), (0, 0)]


def test_only_the_columns_asked_for_are_read_and_counted(manifest):
    kept = Counted(manifest, columns=["key"], budget=1 << 20)
    kept.group(0, 0)
    assert kept.bytes == pq.ParquetFile(manifest.file(0)).read_row_group(0, columns=["key"]).nbytes
    assert kept.read(0, 1, ["label", "key"]).column_names == ["label", "key"]
    assert list(kept.kept) == [(0, 0)]


def test_footers_are_read_once(manifest, monkeypatch):
    """Footers of the files opened last are kept; an evicted one is read and checked again."""
    checked = []
    real = row_groups.fits_schema
    monkeypatch.setattr(
        row_groups, "fits_schema", lambda opened, *rest: checked.append(opened.metadata.num_rows) or real(opened, *rest)
    )
    monkeypatch.setattr(row_groups, "FOOTERS", 2)
    kept = Counted(manifest, budget=1)
    for shard in (0, 2, 0, 1, 0, 2):
        kept.read(shard, 0, None)
    assert checked == [manifest.shards[shard].rows for shard in (0, 2, 1, 2)]


def flip(path):
    data = bytearray(path.read_bytes())
    data[data.index(b"\x89PNG") + 40] ^= 1
    path.write_bytes(bytes(data))


def regroup(path):
    pq.write_table(pq.read_table(path), path, row_group_size=8)


@pytest.mark.parametrize(
    ("harm", "culprit"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "cannot be read"),
        (flip, "is damaged"),
        (regroup, "columns and rows"),
        (lambda path: pq.write_table(pq.read_table(path).slice(0, 60), path, row_group_size=GROUP), "columns and rows"),
        (lambda path: pq.write_table(pq.read_table(path).drop("hash"), path, row_group_size=GROUP), "columns and rows"),
        (lambda path: pq.write_table(pa.table({"key": [""] * 65}), path, row_group_size=GROUP), "columns and rows"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(own, tmp_path, harm, culprit):
    """An unreadable file among readable ones is named; with other row groups, rows would be mixed up."""
    harm(tmp_path / "s" / "train-00001.parquet")
    kept = RowGroups(own, own.path, SCHEMA, pa.Table.to_pylist, budget=1 << 20)
    assert len(kept.group(0, 0)) == len(kept.group(2, 5)) == GROUP
    with pytest.raises(ValueError, match=rf"shard train-00001\.parquet of {own.path} .*{culprit}"):
        kept.group(1, 0)


def test_what_is_kept_stays_behind(tmp_path):
    """A pickled reader is as small as one that has read nothing, and reads the same rows."""
    manifest = write_digit_shards(tmp_path, 60, 30, 10)
    reader = Reader(manifest)
    fresh = len(pickle.dumps(reader))
    rows = np.arange(60)
    first = reader.read(rows)
    assert len(pickle.dumps(reader)) == fresh
    assert reader.groups.bytes > 0
    again = pickle.loads(pickle.dumps(reader))
    assert again.groups.bytes == 0
    assert np.array_equal(again.read(rows).images, first.images)
