"""Numeric attributes from every kind of source to the microbatches of a run."""

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raysde.data.attributes import Attribute, check_attribute_name, choose_attributes, parse_number
from raysde.data.batches.arrow import from_table
from raysde.data.batches.microbatch import make_microbatch
from raysde.data.batches.tables import Decoded, to_table
from raysde.data.dataset.contact_sheet import describe_manifest
from raysde.data.dataset.manifest import SCHEMA, list_columns, read_manifest
from raysde.data.dataset.reader import Reader
from raysde.data.dataset.verify import verify_shards
from raysde.data.ingest.collect import collect_parts
from raysde.data.ingest.convert import convert_part
from raysde.data.ingest.digits import stroke_thickness
from raysde.data.ingest.probe import choose_rules
from raysde.data.ingest.sources import attribute_names, open_source
from tests.support.sources import COUNT, FILES, NAMES, read, reasons, write_images, write_lines, write_tar

AGES = [0.5, 3, None, -2.25, 1e6, 7, 0]
"""Ages of the seven images, one of them unknown."""


def ages(samples):
    return {sample.key.rpartition("/")[2].partition(".")[0]: sample.attributes for sample in samples}


EXPECTED = {name: (None if age is None else float(age),) for name, age in zip(NAMES, AGES, strict=True)}


def write_csv(folder, cells):
    rows = [f"{name}.png,{cell}" for name, cell in zip(NAMES, cells, strict=True)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,Age", *rows]) + "\n")
    return folder


def test_every_source_with_columns_gives_the_same_numbers(tmp_path):
    lines = write_lines(
        write_images(tmp_path / "lines"),
        [{"file_name": f"{name}.png", "Age": age} for name, age in zip(NAMES, AGES, strict=True)],
    )
    assert ages(read(lines, attributes=["age"])) == EXPECTED
    table = write_csv(write_images(tmp_path / "csv"), ["" if age is None else str(age) for age in AGES])
    assert ages(read(table, attributes=["AGE "])) == EXPECTED
    beside = write_images(tmp_path / "beside")
    for name, age in zip(NAMES, AGES, strict=True):
        (beside / f"{name}.json").write_text(json.dumps({"text": "x"} if age is None else {"age": age}))
    assert ages(read(beside, attributes=["age"])) == EXPECTED
    catalogue = write_images(tmp_path / "catalogue")
    (catalogue / "about.json").write_text(
        json.dumps({f"{name}.png": {"caption": "x", "age": age} for name, age in zip(NAMES, AGES, strict=True)})
    )
    assert ages(read(catalogue, attributes=["age"])) == EXPECTED
    listed = write_images(tmp_path / "listed")
    (listed / "about.json").write_text(
        json.dumps([{"file_name": f"{name}.png", "age": age} for name, age in zip(NAMES, AGES, strict=True)])
    )
    assert ages(read(listed, attributes=["age"])) == EXPECTED
    members = [
        member
        for name, data, age in zip(NAMES, FILES, AGES, strict=True)
        for member in ((f"{name}.png", data), (f"{name}.json", json.dumps({"age": age}).encode()))
    ]
    archive = write_tar(tmp_path / "tars" / "a.tar", members)
    assert ages(read(archive.parent, attributes=["age"])) == EXPECTED
    pq.write_table(pa.table({"image": pa.array(FILES, pa.binary()), "age": AGES}), tmp_path / "a.parquet")
    values = [sample.attributes for sample in read(tmp_path / "a.parquet", attributes=["age"])]
    assert values == list(EXPECTED.values())


def test_two_descriptions_of_an_image_agree(tmp_path):
    folder = write_images(tmp_path / "twice")
    rows = [{"file_name": f"{name}.png", "text": text, "age": 1} for name in NAMES for text in ("a", "b")]
    write_lines(folder, rows)
    assert {sample.attributes for sample in read(folder, attributes=["age"])} == {(1.0,)}
    write_lines(folder, [*rows, {"file_name": "00.png", "text": "c", "age": 2}])
    with pytest.raises(ValueError, match="it has age 2 here and 1 before"):
        read(folder, attributes=["age"])


@pytest.mark.parametrize(
    ("cell", "said"),
    [("old", "Age 'old' is no number"), ("inf", "Age 'inf' is not finite"), ("1;5", "Age '1;5' is no number")],
)
def test_a_wrong_number_names_its_row(tmp_path, cell, said):
    folder = write_csv(write_images(tmp_path / "csv"), ["1"] * 6 + [cell])
    with pytest.raises(ValueError, match=f"entry 7: {said}"):
        read(folder, attributes=["age"])
    assert [said in reason for reason in reasons(read(folder, attributes=["age"], missing="bad"))] == [True]


def test_wrong_names_are_refused(tmp_path):
    folder = write_csv(write_images(tmp_path / "csv"), ["1"] * 7)
    with pytest.raises(ValueError, match="has no column 'weight', which --attributes asks for; it has file_name, Age"):
        open_source(str(folder), attributes=["weight"])
    for names, said in ((["a", "A"], "twice"), (["prompt"], "another meaning"), (["a.b"], "letters, digits")):
        with pytest.raises(ValueError, match=said):
            attribute_names(names)
    assert attribute_names(["Stroke Width"]) == ("stroke_width",)
    pq.write_table(pa.table({"image": pa.array(FILES, pa.binary()), "age": ["1"] * 7}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="column 'age', which --attributes asks for, is string, not of numbers"):
        open_source(str(tmp_path / "a.parquet"), attributes=["age"])
    np.save(tmp_path / "x.npy", np.zeros((3, 4, 4), np.uint8))
    with pytest.raises(ValueError, match="of arrays, which have no columns"):
        open_source(str(tmp_path / "x.npy"), attributes=["age"])


def test_numbers_and_names():
    assert [parse_number(value) for value in (None, "", " ", math.nan, "nan", 2, " 1e3 ")] == [None] * 5 + [2.0, 1000.0]
    for value in (True, "x", [], math.inf, "-inf"):
        with pytest.raises(ValueError, match=r"no number|not finite"):
            parse_number(value)
    known = (Attribute("age", 0.0, 1.0), Attribute("height", -1.0, 3.0))
    assert choose_attributes(["height", "age"], known, "the model") == known
    with pytest.raises(ValueError, match="there is no attribute 'hight'; did you mean height"):
        choose_attributes(["hight"], known, "the model")
    with pytest.raises(ValueError, match=r"low <= high"):
        Attribute("age", 2.0, 1.0)
    with pytest.raises(ValueError, match="letters"):
        check_attribute_name("1st")


def ingest_here(source, out, **rules):
    """Write a data set without Ray, in parts of three rows."""
    out.mkdir()
    found = open_source(str(source), part_rows=3, order="source", attributes=rules.pop("attributes", ()))
    chosen = choose_rules(found, row_group=2, **rules)
    parts = [convert_part(part, number, chosen, str(out)) for number, part in enumerate(found.parts)]
    return collect_parts(parts, chosen, str(out), source="here", licence="")


def described(tmp_path):
    rows = [
        {"file_name": f"{name}.png", "text": "a", "age": age, "score": -number}
        for number, (name, age) in enumerate(zip(NAMES, AGES, strict=True))
    ]
    return write_lines(write_images(tmp_path / "images"), rows)


def test_shards_hold_the_numbers_and_the_manifest_their_range(tmp_path):
    made = ingest_here(described(tmp_path), tmp_path / "out", attributes=["score", "age"])
    manifest = read_manifest(str(tmp_path / "out"))
    assert manifest == made
    assert manifest.attributes == (Attribute("score", -6.0, 0.0), Attribute("age", -2.25, 1e6))
    known = np.array([age for age in AGES if age is not None])
    statistics = manifest.statistics["attributes"]["age"]
    assert statistics["rows"] == 6
    assert (statistics["mean"], statistics["std"]) == pytest.approx((known.mean(), known.std()), rel=1e-9)
    verify_shards(manifest, hashes=True)
    assert "attribute      score: -6 to 0, mean -3, deviation 2, 7 rows" in describe_manifest(manifest)
    rows = np.array([6, 2, 0, 3])
    wanted = np.array([[-6, 0], [-2, math.nan], [0, 0.5], [-3, -2.25]], dtype=np.float32)
    columns = Reader(manifest).read(rows)
    np.testing.assert_array_equal(columns.attributes, wanted)
    one = Reader(manifest, fields={"attributes.age"})
    np.testing.assert_array_equal(one.read(rows).attributes, wanted[:, 1:])
    assert one.read(rows).captions == [""] * 4
    assert Reader(manifest, fields={"captions"}).read(rows).attributes is None
    assert Reader(manifest).about(2)["attributes"] == {"score": -2.0, "age": None}


def test_blocks_carry_the_numbers(tmp_path):
    """Microbatches that went through an Arrow table have the same attributes, bit for bit."""
    manifest = ingest_here(described(tmp_path), tmp_path / "out", attributes=["score", "age"])
    reader, chosen = Reader(manifest), [np.array([5, 2, 1]), np.array([0, 4, 3])]
    decoded = [Decoded(step, 1, rows, reader.read(rows)) for step, rows in enumerate(chosen)]
    batches = [make_microbatch(each.step, 1, each.rows, each.columns) for each in decoded]
    back = list(from_table(to_table(decoded, {"attributes": np.dtype(np.float32)}), manifest.channels))
    for before, after in zip(batches, back, strict=True):
        torch.testing.assert_close(after.attributes, before.attributes, rtol=0.0, atol=0.0, equal_nan=True)


def test_data_sets_without_attributes_stay_as_they_were(tmp_path):
    """Without the option, shards and manifest have no trace of attributes, and unfinished ingests keep their name."""
    folder = described(tmp_path)
    manifest = ingest_here(folder, tmp_path / "plain")
    assert manifest.columns == list_columns(SCHEMA)
    assert "attributes" not in json.loads((tmp_path / "plain" / "manifest.json").read_text())
    assert pq.read_schema(manifest.file(0)).names == SCHEMA.names
    with_age = ingest_here(folder, tmp_path / "aged", attributes=["age"])
    assert with_age.fingerprint != manifest.fingerprint
    assert open_source(str(folder)).identity != open_source(str(folder), attributes=["age"]).identity


def test_an_attribute_without_values_is_refused(tmp_path):
    folder = write_csv(write_images(tmp_path / "csv"), [""] * COUNT)
    with pytest.raises(ValueError, match="attribute 'age': no image of here has a value of it; leave it out"):
        ingest_here(folder, tmp_path / "out", attributes=["age"])


def test_the_thickness_of_a_bar_is_its_width():
    """A long bar of width w has thickness 2 w L / (2 w + 2 L), which tends to w; a soft edge changes neither sum."""
    images = np.zeros((4, 400, 40), dtype=np.uint8)
    for number, width in enumerate((1, 3, 8)):
        images[number, 50:350, 10 : 10 + width] = 255
    images[3, :, :] = images[1]
    images[3, 50:350, 10], images[3, 50:350, 13] = 128, 127
    width, length = np.array([1.0, 3.0, 8.0, 3.0]), 300.0
    np.testing.assert_allclose(stroke_thickness(images), width * length / (width + length), rtol=0.01)
    assert stroke_thickness(np.zeros((1, 5, 5), np.uint8)) == 0.0
