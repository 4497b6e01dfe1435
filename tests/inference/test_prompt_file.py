"""Prompt files: requests in every format, and errors of one sentence that names the row."""

import json
import re

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysde.inference.prompt_file import read_requests

ROWS = [
    {"prompt": "a red bicycle", "label": 3, "seed": 7, "negative": "blue"},
    {"prompt": 'seven, "7"', "label": 0, "seed": None, "negative": None},
    {"prompt": "sieben – 七\u2028", "label": 9, "seed": -5, "negative": ""},
]


def write(path, rows):
    """Write rows in the format of the file's suffix."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pd.DataFrame(rows).astype(object).to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return str(path)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_says_the_same(tmp_path, kind):
    found = read_requests(write(tmp_path / f"rows.{kind}", ROWS))
    assert found.count == 3
    assert found.prompts == [row["prompt"] for row in ROWS]
    assert found.labels == ["3", "0", "9"]
    assert found.labelled(10, ()).labels == [3, 0, 9]
    assert found.seeds == [7, None, -5]
    assert found.negatives == ["blue", None, None]
    assert found.unread == ()
    assert found.sha256 == read_requests(write(tmp_path / "other.jsonl", ROWS)).sha256
    assert found.sha256 != read_requests(write(tmp_path / "fewer.jsonl", ROWS[:2])).sha256


@pytest.mark.parametrize("changed", [{"prompt": "x"}, {"label": 4}, {"seed": 8}, {"negative": "red"}])
def test_another_cell_is_another_hash(tmp_path, changed):
    first = read_requests(write(tmp_path / "a.jsonl", ROWS))
    assert first.sha256 != read_requests(write(tmp_path / "b.jsonl", [{**ROWS[0], **changed}, *ROWS[1:]])).sha256


def test_lines_are_prompts(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffone\r\n two \u2028three\n".encode())
    assert read_requests(str(file)).prompts == ["one", " two \u2028three"]
    file.write_text("7")
    assert read_requests(str(file)).prompts == ["7"]


@pytest.mark.parametrize(("content", "row"), [("\none\ntwo\n", 1), ("one\n\ntwo\n", 2), ("one\ntwo\n\n", 3)])
def test_an_empty_line_is_a_row_without_a_prompt(tmp_path, content, row):
    """An empty line at either end counts too, since skipping it would shift the images after it."""
    (tmp_path / "prompts.txt").write_text(content)
    with pytest.raises(ValueError, match=f"row {row} has no prompt"):
        read_requests(str(tmp_path / "prompts.txt"))


def test_pandas_writes_null_as_nan(tmp_path):
    """A column of numbers with a missing value is read from floating point."""
    pd.DataFrame({"label": [1, 2], "seed": [5, None], "id": [8, 9]}).to_parquet(tmp_path / "rows.parquet")
    found = read_requests(str(tmp_path / "rows.parquet"))
    assert (found.labels, found.seeds, found.prompts) == (["1", "2"], [5, None], None)
    assert found.unread == ("id",)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "Prompt, Label, SEED, Note\none, 3, 5, x\n"),
        ("a.tsv", " prompt \tlabel\tSeed\tNote\none\t3\t5\tx\n"),
        ("a.jsonl", '{"PROMPT": "one", "Label": 3, "seed ": 5, "Note": "x"}'),
        ("A.NDJSON", '{"Prompt": "one", "label": 3, "Seed": 5, "Note": "x"}'),
    ],
)
def test_columns_are_found_in_any_spelling(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    found = read_requests(str(tmp_path / name))
    assert (found.prompts, found.labels, found.seeds, found.unread) == (["one"], ["3"], [5], ("Note",))


def test_parquet_columns_are_found_in_any_spelling_and_once(tmp_path):
    pq.write_table(pa.table({"Prompt": ["one"], "LABEL": [3], "Note": ["x"]}), tmp_path / "a.parquet")
    found = read_requests(str(tmp_path / "a.parquet"))
    assert (found.prompts, found.labels, found.unread) == (["one"], ["3"], ("Note",))
    for names in (["prompt", "Prompt"], ["prompt", "prompt"]):
        pq.write_table(pa.table([["one"], ["two"]], names=names), tmp_path / "a.parquet")
        with pytest.raises(ValueError, match=rf"a\.parquet: columns '{names[0]}' and '{names[1]}' have one name"):
            read_requests(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", "", "has no rows"),
        ("a.csv", "prompt,Prompt\none,two\n", "columns 'prompt' and 'Prompt' have one name"),
        ("a.csv", "prompt,label,prompt\none,1,two\n", "line 1 has the column 'prompt' twice"),
        ("a.jsonl", '{"prompt": "one"}\n{"prompt": "two", "prompt": "three"}', "line 2: key 'prompt' is given twice"),
        ("a.jsonl", '{"prompt": "one"}\n{"PROMPT": "two"}', "columns 'prompt' and 'PROMPT' have one name"),
        ("a.txt", "one\n\nthree\n", "row 2 has no prompt"),
        ("a.csv", "prompt,label\n", "has neither a column prompt nor a column label: it is empty"),
        ("a.csv", "text,label2\none,2\n", "its columns are text, label2"),
        ("a.csv", "prompt\none,2\n", "line 2 has more fields than the header"),
        ("a.jsonl", '{"label": 1}\n{"label": 2.5}', "row 2 has the label '2.5', which is no whole number"),
        ("a.jsonl", '{"prompt": "one"}\n{"label": 2}\n', "row 2 has no prompt"),
        ("a.jsonl", '{"prompt": 7}', "row 1 has the prompt '7', which is no text"),
        ("a.jsonl", '{"label": true}', "row 1 has the label 'True', which is no whole number"),
        ("a.jsonl", '{"label": 1, "seed": 1e30}', "row 1 has the seed"),
        ("a.jsonl", '{"prompt": "\\ud800"}', "not valid Unicode"),
        ("a.jsonl", "[1]", "line 1 is not a JSON object"),
        ("a.jsonl", "", "it is empty"),
        ("a.parquet", "PAR1", "is not whole Parquet"),
        ("a.json", "{}", "must end in .txt"),
        ("b/a.txt", None, "there is no prompt file"),
    ],
)
def test_what_is_wrong_is_one_sentence_with_the_row(tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=r"a\.(txt|csv|json|parquet)") as refused:
        read_requests(str(tmp_path / name))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("label", ["x", "2.5", "1e1"])
def test_a_label_that_is_no_class_number_is_named(tmp_path, label):
    """A label that is no number is refused by a model without class names; one with names may have such a class."""
    (tmp_path / "a.csv").write_text(f"label\n2.0\n{label}\n")
    asked = read_requests(str(tmp_path / "a.csv"))
    with pytest.raises(ValueError, match=f"row 2: label '{re.escape(label)}' is no class number"):
        asked.labelled(10, ())
    assert asked.labelled(2, ("2.0", label)).labels == ["2.0", label]
    (tmp_path / "b.csv").write_text("label\n2.0\n 3 \n")
    assert read_requests(str(tmp_path / "b.csv")).labelled(10, ()).labels == [2, 3]


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\n\xff\n")
    with pytest.raises(ValueError, match=r"a\.txt, line 2 is not UTF-8"):
        read_requests(str(tmp_path / "a.txt"))


@pytest.mark.parametrize(
    ("rows", "taken", "said"),
    [
        ([{"prompt": "one"}], {"prompts": False, "classes": 10}, "row 1 has a prompt, but the model takes no prompts"),
        ([{"label": 1}], {"prompts": True, "classes": 0}, "row 1 has a label, but the model has no classes"),
        (
            [{"label": 1}, {"label": 10}],
            {"prompts": False, "classes": 10},
            "row 2 has label 10, but the model's are 0 to 9",
        ),
        ([{"label": 1}, {"label": -1}], {"prompts": False, "classes": 10}, "row 2 has label -1"),
        ([{"label": 1, "negative": "x"}], {"prompts": False, "classes": 10}, "takes no prompts"),
    ],
)
def test_what_a_model_cannot_draw(tmp_path, rows, taken, said):
    asked = read_requests(write(tmp_path / "a.jsonl", rows))
    with pytest.raises(ValueError, match=r"a\.jsonl") as refused:
        asked.fit(**taken)
    assert said in str(refused.value)
    read_requests(write(tmp_path / "b.jsonl", [{"label": 0}, {"label": 9}])).fit(prompts=False, classes=10)
