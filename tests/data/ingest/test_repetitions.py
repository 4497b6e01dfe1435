"""The report's repeated rows: equal to a computation in memory, whether pairs are spilled or not, in bounded memory."""

import hashlib
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from raysde.data.dataset.shard_table import Shard
from raysde.data.ingest import repetitions
from raysde.data.ingest import report as reports
from raysde.data.ingest.convert import Converted
from raysde.data.ingest.identities import forget_unfinished, hash_text, read_identities, write_identities
from raysde.data.ingest.repetitions import Repetitions
from raysde.data.ingest.report import Report
from raysde.data.ingest.statistics import Statistics
from tests.support.memory import peak_bytes


def make_part(out, number, rows, rng):
    """Write a part's identities, and return it with its rows: (validation, hash, key), in the order of its shards."""
    held = int(rows * 0.3)
    pairs = [
        (
            validation,
            hashlib.blake2b(b"%d" % rng.integers(40), digest_size=8).hexdigest(),
            f"{rng.integers(60):03d}.png",
        )
        for validation in [0] * (rows - held) + [1] * held
    ]
    shards = [Shard("a", rows - held, 1, "0" * 64), Shard("b", held, 1, "0" * 64, "validation")]
    write_identities(str(out), number, [pair[1] for pair in pairs], [pair[2] for pair in pairs])
    return Converted(shards, [], Statistics(), number=number), pairs


def repeated(rows, column):
    """Return what the report says of rows (validation, hash, key) in the order of the data set, from all in memory."""
    groups = defaultdict(list)
    for row in sorted(rows, key=lambda row: row[0]):
        groups[row[column]].append(row[2])
    found = [keys for _, keys in sorted(groups.items()) if len(keys) > 1]
    return {"rows": sum(len(keys) - 1 for keys in found), "groups": found}


@pytest.mark.parametrize("held", [1 << 22, 50, 7])
def test_the_report_equals_one_from_memory(tmp_path, monkeypatch, held):
    """With nothing on disk, with some of the pairs and with nearly all; training rows come first in each group."""
    monkeypatch.setattr(repetitions, "HELD", held)
    rng, every = np.random.default_rng(0), []
    (tmp_path / "spill").mkdir()
    report = Report(str(tmp_path), tmp_path / "spill")
    for number, rows in enumerate((30, 0, 17, 41)):
        part, pairs = make_part(tmp_path, number, rows, rng)
        every += pairs
        report.add(part, read_identities(str(tmp_path), number))
    assert report.repetitions() == {"duplicates": repeated(every, 1), "repeated_keys": repeated(every, 2)}
    forget_unfinished(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["spill"]


def test_keys_with_the_same_hash_are_not_the_same_key(tmp_path, monkeypatch):
    monkeypatch.setattr("raysde.data.ingest.identities.hash_text", lambda text: hash_text(text[:1]))
    (tmp_path / "spill").mkdir()
    report = Report(str(tmp_path), tmp_path / "spill")
    write_identities(str(tmp_path), 0, ["0" * 16] * 5, ["a1", "a2", "a1", "b1", "b2"])
    report.add(Converted([Shard("a", 5, 1, "0" * 64)], [], Statistics()), read_identities(str(tmp_path), 0))
    found = report.repetitions()
    assert found["repeated_keys"] == {"rows": 1, "groups": [["a1", "a1"]]}
    assert found["duplicates"] == {"rows": 4, "groups": [["a1", "a2", "a1", "b1", "b2"]]}


def test_a_part_with_the_identities_of_another_is_refused(tmp_path):
    (tmp_path / "spill").mkdir()
    report = Report(str(tmp_path), tmp_path / "spill")
    write_identities(str(tmp_path), 0, ["0" * 16] * 5, list("abcde"))
    with pytest.raises(ValueError, match=r"part 0 of .* has 4 rows and the identities of 5"):
        report.add(Converted([Shard("a", 4, 1, "0" * 64)], [], Statistics()), read_identities(str(tmp_path), 0))


@pytest.mark.parametrize("held", [1 << 22, 500])
def test_of_many_groups_the_first_are_named(tmp_path, monkeypatch, held):
    """All repeated rows are counted; 1,000 groups are named by value, and of each at most 1,000 rows."""
    monkeypatch.setattr(repetitions, "HELD", held)
    monkeypatch.setattr(repetitions, "MOST_NAMED", 20)
    rng, found = np.random.default_rng(1), Repetitions(tmp_path)
    kinds = rng.integers(0, 2**64, 60, dtype=np.uint64)
    values = np.concatenate(
        [kinds[rng.integers(0, 60, 1000)], np.full(300, kinds.min()), rng.integers(0, 2**64, 900, dtype=np.uint64)]
    )
    rows = rng.permutation(len(values))
    for part in np.array_split(np.arange(len(values)), 30):
        found.add(values[part], rows[part])
    count, groups = found.find()
    distinct, times = np.unique(values, return_counts=True)
    assert count == (times[times > 1] - 1).sum()
    assert len(groups) == 20
    for value, group in zip(distinct[times > 1], groups, strict=False):
        assert group.tolist() == np.sort(rows[values == value])[:20].tolist()


@pytest.mark.parametrize("kinds", [1 << 63, 3])
def test_memory_does_not_grow_with_the_rows(tmp_path, monkeypatch, kinds):
    """Ten times the rows take the same memory, if all differ and if nearly all are equal."""
    monkeypatch.setattr(repetitions, "HELD", 4000)

    def collect(count):
        rng, found = np.random.default_rng(0), Repetitions(Path(tempfile.mkdtemp(dir=tmp_path)))
        for start in range(0, count, 1000):
            values = rng.integers(0, kinds, 1000, dtype=np.uint64) << np.uint64(1)
            found.add(values, np.arange(start, start + 1000))
        found.find()

    peaks = [peak_bytes(lambda: collect(20_000)), peak_bytes(lambda: collect(200_000))]
    assert peaks[1] < 1.5 * peaks[0]
    assert peaks[1] < 20 * 16 * 4000


def test_a_report_keeps_no_rows(tmp_path, monkeypatch):
    """Parts are dropped once they are added: ten times the parts take a few bytes a part more."""
    monkeypatch.setattr(repetitions, "HELD", 2000)
    part, _ = make_part(tmp_path, 0, 500, np.random.default_rng(0))
    identities = read_identities(str(tmp_path), 0)

    def collect(count):
        report = Report(str(tmp_path), Path(tempfile.mkdtemp(dir=tmp_path)))
        for number in range(count):
            report.add(replace(part, number=number), identities)

    peaks = [peak_bytes(lambda: collect(20)), peak_bytes(lambda: collect(200))]
    assert peaks[1] - peaks[0] < 200 * 200
    assert reports.VALIDATION > 0
