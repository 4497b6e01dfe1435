"""Rows of text files that describe images: JSON, JSON lines, CSV and TSV."""

import csv
import io
from collections.abc import Callable, Iterator
from typing import Any

from raysde.io.documents import read_json

TABLES = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson")
SEPARATORS = (";", "\t", "|", ",")

Refuse = Callable[[str, str, dict[str, Any]], None]
"""A callback ``refuse(place, sentence, row)`` for a wrong row: its place, the error sentence, and its readable part."""


def raise_refusal(place: str, sentence: str, row: dict[str, Any]) -> None:
    """Refuse a file for one wrong row; a :data:`Refuse` whose place and row are not used.

    Raises:
        ValueError: with ``sentence``.
    """
    raise ValueError(sentence)


def parse_object(text: str, where: str) -> dict[str, Any]:
    """Parse a JSON document that is an object.

    Raises:
        ValueError: naming ``where``, if the document is not valid, or is no object.
    """
    row = read_json(text, where)
    if not isinstance(row, dict):
        raise ValueError(f"{where} is not a JSON object")
    return row


def json_rows(text: str, where: str, refuse: Refuse = raise_refusal) -> Iterator[dict[str, Any]]:
    """Yield the objects of JSON lines; blank lines are ignored.

    Args:
        refuse: callback for a line that is no JSON object, or has a key twice.
    """
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines: captions may hold U+2028
        place = f"{where}, line {number}"
        try:
            row = parse_object(line, place) if line.strip() else None
        except ValueError as error:
            refuse(place, str(error), {})
            continue
        if row is not None:
            yield row


def table_rows(text: str, where: str, delimiter: str, refuse: Refuse = raise_refusal) -> Iterator[dict[str, Any]]:
    """Yield the rows of a CSV with a header; column names lose white space at both ends.

    Args:
        refuse: callback for a row that has more fields than the header.

    Raises:
        ValueError: naming the line, if the ends of rows are unclear, or if the header has a column twice or another
            delimiter.
    """
    header = text.lstrip("\r\n").partition("\n")[0].split(delimiter)
    spaced = len(header) > 1 and all(name.startswith(" ") for name in header[1:])
    lines = io.StringIO(text, newline="")
    reader = csv.DictReader(lines, delimiter=delimiter, strict=True, skipinitialspace=spaced)
    try:
        names = [name.strip() for name in reader.fieldnames or ()]
        twice = next((name for name in names if name and names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{where}, line 1 has the column {twice!r} twice; rename or remove one of the two")
        _check_delimiter(names, where, delimiter)
        reader.fieldnames = names
        for row in reader:
            if row.pop(None, None) is not None:
                place = f"{where}, line {reader.line_num}"
                refuse(place, f"{place} has more fields than the header; quote such text", row)
            else:
                yield row
    except csv.Error as error:
        raise ValueError(f"{where}, line {reader.reader.line_num} is not valid: {error}") from error


def _check_delimiter(names: list[str], where: str, delimiter: str) -> None:
    """Raise ValueError if a header is a single name that contains another delimiter."""
    other = next((mark for mark in SEPARATORS if len(names) == 1 and mark in names[0]), None)
    if other is not None:
        raise ValueError(
            f"{where}, line 1 separates its columns by {other!r}, expected {delimiter!r}; save the table with that"
        )
