"""Parquet sources: columns that are read, ignored columns, and ambiguous ones."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysde.data.ingest.sources import open_source
from tests.support.sources import FILES, read, said, write_images


def write(path, **columns):
    pq.write_table(pa.table(columns), path / "a.parquet")
    return path


@pytest.mark.parametrize(
    "names",
    [
        ("image", "TEXT", "Label"),
        ("Image", " caption", "labels"),
        ("JPG", "Prompts", "class"),
        ("img", "caption_text", "CLASS"),
    ],
)
def test_columns_are_found_in_any_spelling(tmp_path, names):
    image, caption, label = names
    write(
        tmp_path, **{image: FILES, caption: ["words"] * len(FILES), label: [3] * len(FILES), "url": ["u"] * len(FILES)}
    )
    assert said(read(tmp_path)) == [(data, ("words",), "3") for data in FILES]
    assert any(note == "columns url are not read" for note in open_source(str(tmp_path)).notes)


def test_paths_are_relative_to_the_folder_of_their_own_file(tmp_path):
    """Tables in two folders each find their own image of the same name."""
    for number, folder in enumerate(("one", "two")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.bin").write_bytes(FILES[number])
        write(tmp_path / folder, file_name=["a.bin"], text=[folder])
    assert said(read(tmp_path)) == [(FILES[0], ("one",), None), (FILES[1], ("two",), None)]


@pytest.mark.parametrize("name", ["File Name", "FILENAME", "image_path", "filepath"])
def test_paths_are_found_in_any_spelling(tmp_path, name):
    write_images(tmp_path / "images", ["a"])
    write(tmp_path, **{name: ["images/a.png"], "caption": [["one", "two"]]})
    assert said(read(tmp_path / "a.parquet")) == [(FILES[0], ("one", "two"), None)]


@pytest.mark.parametrize(
    ("names", "culprit"),
    [
        (["text", "Text"], "'text' and 'Text' have one name"),
        (["text", "caption"], "'text' and 'caption' may both be the caption; --caption-column"),
        (["label", "class"], "'label' and 'class' may both be the label; --label-column"),
        (["id", "id"], "the column 'id' twice"),
        (["IMAGE", "id"], "'image' and 'IMAGE' have one name"),
    ],
)
def test_two_columns_for_one_are_refused(tmp_path, names, culprit):
    other = pa.array(["x"])
    table = pa.table([pa.array(FILES[:1]), other, other], names=["image", *names])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet") as caught:
        open_source(str(tmp_path))
    assert culprit in str(caught.value)


def test_a_column_is_chosen(tmp_path):
    write(tmp_path, image=FILES[:1], text=["a"], caption=["b"], label=[1], category=["cat"], width=[1.5], box=[b"x"])
    chosen = {"caption_column": "Caption", "label_column": "category"}
    assert said(read(tmp_path, **chosen)) == [(FILES[0], ("b",), "cat")]
    assert "columns text, label, width, box are not read" in open_source(str(tmp_path), **chosen).notes
    with pytest.raises(ValueError, match="has no column 'words'"):
        open_source(str(tmp_path), caption_column="words")
    with pytest.raises(ValueError, match="column 'box' has a type that is not read"):
        open_source(str(tmp_path), caption_column="box")


def test_a_column_of_another_type_than_its_name_says_what_is_read(tmp_path):
    """A column of lists is ignored as label, because a list may hold several, and read as captions."""
    write(tmp_path, image=FILES[:1], text=[["a", "b"]], label=[[3]], caption=[1.5])
    source = open_source(str(tmp_path))
    (note,) = [note for note in source.notes if "not read" in note]
    assert "label (list<" in note
    assert "where labels are one word or number in each row), caption (double, where captions are text) are" in note
    assert said(read(tmp_path)) == [(FILES[0], ("a", "b"), None)]
    with pytest.raises(ValueError, match=r"'label' has a type that is not read.*labels are one word or number"):
        open_source(str(tmp_path), label_column="label")
