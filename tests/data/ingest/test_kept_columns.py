"""Columns that an ingest keeps: the same values from every kind of source, with types, in the order of the rows."""

import json
from datetime import date
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysde.data.dataset.manifest import read_manifest
from raysde.data.dataset.reader import Reader
from raysde.data.ingest.convert import Rules
from raysde.data.ingest.kept_values import (
    Text,
    column_identifier,
    join_types,
    parse_kept_names,
    pick_values,
    plain_value,
    settle_text,
)
from raysde.data.ingest.probe import choose_rules
from raysde.data.ingest.samples import Bad
from raysde.data.ingest.sources import open_source
from tests.support.ingested import RULES, ingest_here, scored_parts
from tests.support.sources import COUNT, FILES, NAMES, read, reasons, write_images, write_lines, write_tar

KEEP = ("clip_score", "url", "nsfw", "count")
VALUES = [
    {"CLIP score": None if n == 3 else n / 4, "url": f"http://x/{n}", "nsfw": n % 2 == 0, "count": n, "other": [n]}
    for n in range(COUNT)
]


def as_table(separator: str) -> str:
    header = ["file_name", "CLIP score", "url", "nsfw", "count"]
    rows = [[f"{name}.png", *(str(row[key]) if row[key] is not None else "" for key in header[1:])]
            for name, row in zip(NAMES, VALUES, strict=True)]  # fmt: skip
    return "\n".join(separator.join(row) for row in [header, *rows]) + "\n"


def write_source(kind: str, folder) -> None:
    described = [{"file_name": f"{name}.png", **row} for name, row in zip(NAMES, VALUES, strict=True)]
    if kind == "tar":
        members = [(f"{name}.{suffix}", data) for name, file, row in zip(NAMES, FILES, VALUES, strict=True)
                   for suffix, data in (("png", file), ("json", json.dumps(row).encode()))]  # fmt: skip
        write_tar(folder / "a.tar", members)
        return
    if kind == "parquet":
        folder.mkdir()
        columns = {key: [row[key] for row in VALUES] for key in VALUES[0]}
        pq.write_table(pa.table({"image": FILES, **columns}), folder / "a.parquet", row_group_size=3)
        return
    write_images(folder)
    if kind == "jsonl":
        write_lines(folder, described)
    elif kind in ("csv", "tsv"):
        (folder / f"metadata.{kind}").write_text(as_table("," if kind == "csv" else "\t"))
    elif kind == "rows":
        (folder / "all.json").write_text(json.dumps(described))
    elif kind == "names":
        (folder / "all.json").write_text(json.dumps({row["file_name"]: row for row in described}))
    elif kind == "coco":
        images = [{"id": n, **row} for n, row in enumerate(described)]
        notes = [{"image_id": n, "caption": "x"} for n in range(COUNT)]
        (folder / "all.json").write_text(json.dumps({"images": images, "annotations": notes}))
    else:
        for name, row in zip(NAMES, VALUES, strict=True):
            (folder / f"{name}.json").write_text(json.dumps(row))


KINDS = ["jsonl", "csv", "tsv", "rows", "names", "coco", "sidecars", "tar", "parquet"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_source_gives_the_same_values(kind, tmp_path):
    write_source(kind, tmp_path / "source")
    found = [sample.kept for sample in read(tmp_path / "source", keep=KEEP)]
    assert found == [{column_identifier(key): row[key] for key in row if key != "other"} for row in VALUES]
    assert [type(value) for value in found[1].values()] == [float, str, bool, int]
    assert all(sample.kept == {} for sample in read(tmp_path / "source"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_column_is_named_before_the_conversion(kind, tmp_path):
    write_source(kind, tmp_path / "source")

    def choose(keep):
        choose_rules(open_source(str(tmp_path / "source"), keep=keep), keep=keep)

    choose(KEEP)
    with pytest.raises(ValueError, match=r"(no column|key) 'clip_scor'.*did you mean clip_score\?"):
        choose(("clip_scor",))


def test_lists_and_sources_without_columns_are_refused(tmp_path):
    write_source("tar", tmp_path / "tar")
    (said, *_) = reasons(read(tmp_path / "tar", keep=("other",)))
    assert "column 'other' holds a list, and only numbers, truth values and text can be kept" in said
    write_source("parquet", tmp_path / "parquet")
    with pytest.raises(ValueError, match="no column 'other'"):
        open_source(str(tmp_path / "parquet"), keep=("other",))
    write_images(tmp_path / "bare")
    with pytest.raises(ValueError, match="leave --caption-column, --label-column, --keep-columns out"):
        open_source(str(tmp_path / "bare"), keep=("score",))


def test_names_and_values():
    """Names become identifiers, and values numbers, truth values or text; dates sort as text."""
    assert [column_identifier(name) for name in ("CLIP score", "a-b.c", "2x", "class", "True")] == [
        "clip_score", "a_b_c", "_2x", "class_", "true_"]  # fmt: skip
    assert parse_kept_names("Score, url") == ("score", "url")
    assert parse_kept_names(None) == ()
    for wrong in ("a,,b", "a,A", ""):
        with pytest.raises(ValueError, match="--keep-columns"):
            parse_kept_names(wrong)
    given = [float("nan"), Decimal("1.5"), date(2020, 1, 2), " ", "x", True, 2**63 - 1]
    assert [plain_value(value, "a") for value in given] == [None, 1.5, "2020-01-02", None, "x", True, 2**63 - 1]
    for wrong in ({}, b"x", 2**63, "\ud800"):
        with pytest.raises(ValueError, match="column 'a'"):
            plain_value(wrong, "a")
    with pytest.raises(ValueError, match="columns 'A b' and 'a_b' have one name"):
        pick_values({"A b": 1, "a_b": 2}, ("a_b",))


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (["1", " 2", "-3"], [1, 2, -3]),
        (["1", "2.5", "1e3", "nan"], [1.0, 2.5, 1000.0, None]),
        (["true", "False", "TRUE"], [True, False, True]),
        (["1", "x"], ["1", "x"]),
        (["1_000", "2"], ["1_000", "2"]),
        ([str(2**70), "1"], [float(2**70), 1.0]),
    ],
)
def test_a_column_of_a_table_has_one_type(texts, values):
    rows = [{"a": Text(text)} for text in texts] + [{"a": None}, {}]
    settle_text(rows)
    assert [row.get("a") for row in rows] == [*values, None, None]
    assert [type(row["a"]) for row in rows[: len(texts)]] == [type(value) for value in values]


def test_types_of_parts_are_joined():
    assert [join_types(types) for types in (set(), {""}, {"int64", ""}, {"int64", "double"}, {"bool", "int64"})] == [
        "", "", "int64", "double", "string"]  # fmt: skip


def test_rows_and_kept_columns_are_in_one_order(tmp_path):
    """Value i belongs to row i of the data set, in both splits, with the size of the source image."""
    rules = Rules(**{**vars(RULES), "validation": 0.3, "size": 4, "keep": ("score", "language", "safe", "width")})
    manifest = ingest_here(scored_parts(300, side=6), tmp_path, rules)
    assert read_manifest(str(tmp_path)) == manifest
    assert manifest.rows_in("validation") > 50
    kept = pa.concat_tables(pq.read_table(tmp_path / file.file) for file in manifest.kept.files).to_pylist()
    assert manifest.kept.types == {"score": "double", "language": "string", "safe": "bool", "width": "int64"}
    reader = Reader(manifest)
    for row in range(0, 300, 7):
        number = int(reader.about(row)["key"])
        assert kept[row] == {"score": None if number % 7 == 0 else number / 10, "width": 6,
                             "language": "en" if number % 2 else "de", "safe": number % 5 > 0}  # fmt: skip
    footer = pq.read_metadata(tmp_path / manifest.kept.files[0].file)
    assert footer.row_group(0).column(0).statistics.null_count == sum(
        each["score"] is None for each in kept[: manifest.rows_in("train")]
    )


def test_types_that_parts_disagree_on(tmp_path):
    """Whole numbers become fractions, and numbers beside text become text."""
    parts = scored_parts(4, each=2)
    for number, part in enumerate(parts):
        for sample in part.samples:
            sample.kept.update(a=number if number else 0.5, b=number if number else "x", c=None)
    manifest = ingest_here(parts, tmp_path, Rules(channels=1, size=8, keep=("a", "b", "c")))
    table = pq.read_table(tmp_path / manifest.kept.files[0].file)
    assert table.to_pydict() == {"a": [0.5, 0.5, 1.0, 1.0], "b": ["x", "x", "1", "1"], "c": [None] * 4}
    assert not any(isinstance(sample, Bad) for part in parts for sample in part.samples)
