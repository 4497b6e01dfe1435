"""Appending to a data set: earlier versions keep every byte, and a new one has the rows of both."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysde.cli import main
from raysde.cluster.ingest import begin_ingest, ingest_identity, ingest_journal
from raysde.data.dataset.manifest import read_manifest, read_same_manifest
from raysde.data.dataset.reader import Reader, open_segments
from raysde.data.dataset.selection import select_rows
from raysde.data.dataset.verify import verify_listing, verify_shards
from raysde.data.dataset.versions import choose_version, find_version, read_versions, versioned_name
from raysde.data.ingest.append import check_appendable, extend_labels
from raysde.data.ingest.convert import convert_part
from raysde.data.ingest.sources import Source
from tests.support.ingested import RULES, ingest_here, scored_parts
from tests.support.sources import write_images

SPLIT = replace(RULES, validation=0.25)


@pytest.fixture
def grown(tmp_path):
    """Three versions of a data set of 120, 60 and 40 rows."""
    versions = [ingest_here(scored_parts(120), tmp_path, SPLIT)]
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    versions.append(ingest_here(scored_parts(60, first=1000), tmp_path, SPLIT, versions[0]))
    versions.append(ingest_here(scored_parts(40, first=2000), tmp_path, SPLIT, versions[1]))
    return tmp_path, versions, before


def keys_of(manifest, split):
    reader, rows = Reader(manifest), range(manifest.rows)
    training = manifest.rows_in("train")
    chosen = rows[:training] if split == "train" else rows[training:]
    return [str(reader.about(row)["key"]) for row in chosen]


def test_versions_lie_side_by_side(grown):
    """No file of a version changes, each is read by its number or fingerprint, and the newest is the default."""
    folder, versions, before = grown
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert [entry.fingerprint for entry in read_versions(str(folder))] == [each.fingerprint for each in versions]
    assert [entry.rows for entry in read_versions(str(folder))] == [120, 180, 220]
    for number, manifest in enumerate(versions, start=1):
        assert (
            read_manifest(str(folder), version=number)
            == manifest
            == read_same_manifest(manifest.path, manifest.fingerprint)
        )
        assert find_version(str(folder), manifest.fingerprint) == manifest.version == number
        verify_shards(manifest, hashes=True)
    assert read_manifest(str(folder)) == versions[-1]
    with pytest.raises(ValueError, match=r"data.version=4: the data set at .* has the versions 1 to 3"):
        choose_version(str(folder), 4)
    with pytest.raises(ValueError, match="was changed while it was in use"):
        read_same_manifest(str(folder), "0" * 16)


def test_a_version_has_the_rows_of_the_one_before_first(grown):
    """In each split, rows, images and kept values of the earlier version come first, and every row is there once."""
    folder, versions, _ = grown
    for before, after in itertools.pairwise(versions):
        for split in ("train", "validation"):
            old, new = keys_of(before, split), keys_of(after, split)
            assert new[: len(old)] == old
            assert len(new) > len(old)
    newest = versions[-1]
    keys = [*keys_of(newest, "train"), *keys_of(newest, "validation")]
    assert len(set(keys)) == len(keys) == 220
    kept = pa.concat_tables(pq.read_table(folder / file.file) for file in newest.kept.files).column("score").to_pylist()
    assert kept == [None if int(key) % 7 == 0 else int(key) / 10 for key in keys]
    chosen = select_rows(newest, "score > 100")
    assert np.flatnonzero(chosen.in_rows(0, 220)).tolist() == [
        n for n, s in enumerate(kept) if s is not None and s > 100
    ]
    places, plain = open_segments(newest), Reader(newest)
    assert places is not None
    plain.groups.segments = None
    rows = np.arange(220)
    assert np.array_equal(Reader(newest).read(rows).images, plain.read(rows).images)


def test_fingerprints_are_a_chain(grown, tmp_path_factory):
    """The same shards after another beginning, or in another order, have another fingerprint."""
    _, versions, _ = grown
    other = tmp_path_factory.mktemp("other")
    first = ingest_here(scored_parts(121), other, SPLIT)
    second = ingest_here(scored_parts(60, first=1000), other, SPLIT, first)
    assert (
        second.shards.table.column("sha256").to_pylist()[-1]
        == versions[1].shards.table.column("sha256").to_pylist()[-1]
    )
    found = {each.fingerprint for each in (*versions, first, second, replace(versions[1], parent="0" * 16))}
    assert len(found) == 6
    assert versions[1].parent == versions[0].fingerprint


def test_statistics_are_those_of_all_rows(grown, tmp_path_factory):
    """Counts and moments equal those of one ingest of all rows."""
    _, versions, _ = grown
    parts = scored_parts(120) + scored_parts(60, first=1000) + scored_parts(40, first=2000)
    whole = ingest_here(parts, tmp_path_factory.mktemp("whole"), SPLIT)
    found, wanted = versions[-1].statistics, whole.statistics
    assert (found["labels"], found["captions"]) == (wanted["labels"], wanted["captions"])
    for name in ("mean", "std"):
        assert found["images"][name] == pytest.approx(wanted["images"][name], abs=4e-6)
    assert versions[-1].captions == whole.captions == 220


def test_classes_keep_their_numbers():
    assert extend_labels(("b", "c"), ["a", "c", "10", "9"]) == ("b", "c", "9", "10", "a")
    with pytest.raises(ValueError, match="the same number"):
        extend_labels(("3",), ["3.0"])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"channels": 3}, "has --channels 1, these options make 3"),
        ({"size": 4}, "--size and --fit 8x8, these options make 4x4"),
        ({"row_group": 16}, "--row-group 8, these options make 16"),
        ({"keep": ("score",)}, "--keep-columns language,safe,score, these options make score"),
        ({"fit": "keep", "size": None}, "these options make of each image's own"),
    ],
)
def test_other_options_are_refused(grown, changes, sentence):
    _, versions, _ = grown
    check_appendable(versions[-1], SPLIT)
    with pytest.raises(ValueError, match=sentence):
        check_appendable(versions[-1], replace(SPLIT, **changes))


def test_a_data_set_is_only_replaced_on_request(grown):
    """Without --append a data set is refused; with it an unfinished append of another source is."""
    folder, versions, _ = grown
    source = Source("folder", (), "a", 0)
    with pytest.raises(ValueError, match=r"holds a data set already; .* add to it with --append"):
        begin_ingest(str(folder), ingest_identity(source, SPLIT))
    assert begin_ingest(str(folder), ingest_identity(source, SPLIT, versions[-1]), versions[-1]) == {}
    with pytest.raises(ValueError, match=r"unfinished ingest of another source.*remove .*/\.ingest to"):
        begin_ingest(str(folder), ingest_identity(source, SPLIT, versions[0]), versions[-1])


def test_a_version_is_seen_once_it_is_whole(grown):
    """A manifest that versions.json does not list does not count, and damage is named."""
    folder, versions, _ = grown
    listed = json.loads((folder / "versions.json").read_text())
    (folder / "versions.json").write_text(json.dumps({"versions": listed["versions"][:2]}))
    assert read_manifest(str(folder)) == versions[1]
    for damage in ("{", "[]", json.dumps({"versions": listed["versions"][1:]})):
        (folder / "versions.json").write_text(damage)
        with pytest.raises(ValueError, match=r"versions.json is damaged"):
            read_manifest(str(folder))
    assert [versioned_name("shards.arrow", version) for version in (1, 12)] == ["shards.arrow", "shards-v12.arrow"]


def test_kept_columns_are_verified(grown):
    """A file of kept columns that is missing or changed is named, by any verification."""
    folder, versions, _ = grown
    file = folder / versions[-1].kept.files[0].file
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"x")
    with pytest.raises(ValueError, match=r"file columns-train-00000.parquet .* is not the file that the manifest"):
        verify_shards(versions[-1], hashes=True)
    file.write_bytes(content[:-1])
    for check in (lambda: verify_shards(versions[-1], hashes=False), lambda: verify_listing(versions[-1])):
        with pytest.raises(ValueError, match=r"file columns-train-00000.parquet"):
            check()
    file.unlink()
    with pytest.raises(ValueError, match=r"file columns-train-00000.parquet .* is missing"):
        verify_shards(versions[-1], hashes=False)


@pytest.fixture
def command(monkeypatch):
    """Return a function that runs `raysde` with the tasks of an ingest in this process."""

    def convert(source, rules, out, numbers, version):
        for number in numbers:
            result = convert_part(source.parts[number], number, rules, out, version)
            ingest_journal(out).keep(number, result.to_json())
            yield result

    monkeypatch.setattr("raysde.cluster.ingest.connect", lambda: None)
    monkeypatch.setattr("raysde.cluster.ingest._convert_parts", convert)
    return lambda *words: main([str(word) for word in words])


def test_the_command_keeps_columns_and_appends(command, tmp_path, capsys):
    """Two folders become two versions; kept columns, size and row groups of the second are those of the first."""
    for name, first in (("one", 0), ("two", 10)):
        write_images(tmp_path / name, [f"{row}" for row in range(first, first + 7)])
        table = "".join(f"{row}.png,{row / 4},{'en' if row % 2 else 'de'}\n" for row in range(first, first + 7))
        (tmp_path / name / "metadata.csv").write_text(f"file_name,Aesthetic,language\n{table}")
    out = tmp_path / "out"
    options = ("--size", 4, "--row-group", 2, "--keep-columns", "aesthetic,width,language")
    assert not command("ingest", tmp_path / "one", out, *options)
    assert "columns for data.filter: aesthetic (double), width (int64), language (string)" in capsys.readouterr().out
    assert not command("ingest", tmp_path / "two", out, "--append")
    assert "this is version 2 of the data set" in capsys.readouterr().out
    grown = read_manifest(str(out))
    assert (grown.rows, grown.size, grown.row_group, grown.version) == (14, (4, 4), 2, 2)
    assert select_rows(grown, "aesthetic >= 2 and language == 'en'").count == 3
    assert not command("inspect", out, "--sheet", tmp_path / "sheet.png")
    printed = capsys.readouterr().out
    assert "version        2 of 2 (1: 7 rows, 2: 14 rows)" in printed
    assert "  aesthetic    double, 0.0 to 4.0" in printed
    assert not command("inspect", out, "--sheet", tmp_path / "sheet.png", "--version", 1)
    assert "rows           7 for training" in capsys.readouterr().out
    for words, sentence in (
        (("ingest", tmp_path / "two", out), "holds a data set already"),
        (("ingest", tmp_path / "two", out, "--append", "--size", 8), "these options make 8x8"),
        (("ingest", tmp_path / "two", tmp_path / "new", "--append"), "--append: the folder"),
        (("ingest", tmp_path / "two", tmp_path / "new", "--keep-columns", "aestetic"), "did you mean aesthetic?"),
        (("ingest", tmp_path / "two", tmp_path / "new", "--keep-columns", "a,,b"), "an empty name"),
        (("inspect", out, "--version", 3), "--version=3: the data set at"),
    ):
        with pytest.raises(SystemExit) as ended:
            raise SystemExit(command(*words))
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert sentence in said
        assert said.count("\n") <= 2
