"""Numeric attributes and kept columns in one ingest, and the attributes of a data set that grows."""

from dataclasses import replace

import numpy as np
import pytest

from raysde.data.dataset.manifest import read_manifest
from raysde.data.dataset.reader import Reader
from raysde.data.dataset.selection import select_rows
from raysde.data.dataset.split import split_rows
from raysde.data.dataset.verify import verify_shards
from raysde.data.ingest.append import check_appendable, follow_order
from raysde.data.ingest.sources import open_source
from tests.data.ingest.test_kept_columns import KEEP, KINDS, VALUES, write_source
from tests.support.ingested import RULES, ingest_here, scored_parts
from tests.support.sources import Given, read

AGED = replace(RULES, validation=0.25, attributes=("age", "width_of_stroke"))


def with_attributes(parts, numbers):
    """Return the parts with the attributes ``numbers(i)`` of row i."""
    return [
        Given(tuple(replace(sample, attributes=numbers(int(sample.key))) for sample in part.samples)) for part in parts
    ]


def aged_parts(rows: int, first: int = 0):
    """Return parts in which row i has the age i / 4, or none for every fifth row, and the stroke width -i."""
    return with_attributes(
        scored_parts(rows, first=first), lambda row: (None if row % 5 == 0 else row / 4, -float(row))
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_source_gives_attributes_and_kept_values(kind, tmp_path):
    """Both options read their columns, also columns that both name, and neither changes the other's values."""
    write_source(kind, tmp_path / "source")
    found = read(tmp_path / "source", attributes=("Count", "CLIP score"), keep=KEEP)
    assert [sample.attributes for sample in found] == [(row["count"], row["CLIP score"]) for row in VALUES]
    assert [sample.kept for sample in found] == [sample.kept for sample in read(tmp_path / "source", keep=KEEP)]
    assert found[1].kept["clip_score"] == VALUES[1]["CLIP score"]
    asked = [{}, {"keep": ("count",)}, {"attributes": ("count",)}, {"attributes": ("count",), "keep": ("count",)}]
    assert len({open_source(str(tmp_path / "source"), **options).identity for options in asked}) == 4


def test_a_filter_selects_rows_with_their_attributes(tmp_path):
    """The selected rows, of both splits, have the attributes and the kept values of one source row."""
    manifest = ingest_here(aged_parts(120), tmp_path, AGED)
    assert read_manifest(str(tmp_path)) == manifest
    verify_shards(manifest, hashes=True)
    assert [(each.low, each.high) for each in manifest.attributes] == [(0.25, 119 / 4), (-119.0, 0.0)]
    rows, held = split_rows(manifest, None, 0, select_rows(manifest, "score > 3 and language == 'en'"))
    chosen = np.concatenate([rows.layouts[0].rows_at(np.arange(rows.count)), held])
    reader = Reader(manifest)
    numbers = [int(str(reader.about(int(row))["key"])) for row in chosen]
    assert len(held) > 4
    assert sorted(numbers) == [number for number in range(31, 120, 2) if number % 7]
    ages = [np.nan if number % 5 == 0 else number / 4 for number in numbers]
    wanted = np.stack([ages, -np.array(numbers, dtype=float)], axis=1)
    np.testing.assert_array_equal(reader.read(chosen).attributes, wanted.astype(np.float32))


def test_a_grown_data_set_has_the_attributes_of_all_rows(tmp_path):
    """Ranges and moments of an appended version equal those of one ingest of all rows."""
    first = ingest_here(aged_parts(60), tmp_path / "grown", AGED)
    check_appendable(first, AGED)
    grown = ingest_here(aged_parts(40, first=1000), tmp_path / "grown", AGED, first)
    whole = ingest_here(aged_parts(60) + aged_parts(40, first=1000), tmp_path / "whole", AGED)
    assert read_manifest(str(tmp_path / "grown")) == grown
    assert grown.attributes == whole.attributes != first.attributes
    assert read_manifest(str(tmp_path / "grown"), version=1).attributes == first.attributes
    for name, moments in whole.statistics["attributes"].items():
        assert grown.statistics["attributes"][name] == pytest.approx(moments, rel=1e-12)
    verify_shards(grown, hashes=True)
    for manifest in (grown, whole):
        reader, rows = Reader(manifest), np.arange(100)
        keys = [-int(str(reader.about(int(row))["key"])) for row in rows]
        assert reader.read(rows).attributes[:, 1].tolist() == keys


def test_rows_without_a_value_of_an_attribute_are_appended(tmp_path):
    """The range stays, and the mean is of the rows that have a value."""
    first = ingest_here(aged_parts(60), tmp_path, AGED)
    parts = with_attributes(scored_parts(20, first=1000), lambda row: (None, -2000.0))
    grown = ingest_here(parts, tmp_path, AGED, first)
    assert grown.attributes[0] == first.attributes[0]
    assert grown.attributes[1].low == -2000.0
    assert grown.statistics["attributes"]["age"] == pytest.approx(first.statistics["attributes"]["age"], rel=1e-12)


def test_other_attributes_are_refused(tmp_path):
    first = ingest_here(aged_parts(60), tmp_path, AGED)
    for names, said in (((), "none"), (("age",), "age"), (("width_of_stroke", "age"), "width_of_stroke,age")):
        with pytest.raises(ValueError, match=f"--attributes age,width_of_stroke, these options make {said}; leave"):
            check_appendable(first, replace(AGED, attributes=names))
    assert follow_order(("b", "a"), ["a", "b"]) == follow_order((), ["a", "b"]) == ("a", "b")
    assert follow_order(("b",), ["a", "b"]) == ("b",)
