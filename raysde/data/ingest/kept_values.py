"""Values of the source's columns that an ingest keeps: their names, their types, and the file of each part.

OUT/.ingest/columns-000012.parquet   the kept columns of part 12, in the order of its shards, until the ingest ends
"""

import keyword
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raysde.data.dataset.kept_columns import TYPES
from raysde.data.dataset.manifest import INGESTING
from raysde.io.filesystems import child_path, open_filesystem, write_bytes

Value = bool | int | float | str | None
"""A kept value: a truth value, a number, text, or None if it is missing."""
SIZES = ("width", "height")
"""Columns that every source has: the size of the source image in pixels."""
NUMBERS = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
TRUTH = {"true": True, "false": False}


class Text(str):
    """A value of a CSV, whose type is known once all values of its column are."""


def column_identifier(name: str) -> str:
    """Return the name under which a column is kept, an identifier: ``clip_score`` for ``CLIP score``."""
    found = re.sub(r"\W+", "_", name.strip()).strip("_").casefold()
    return f"{found}_" if keyword.iskeyword(found) or found in TRUTH else found if found[:1].isalpha() else f"_{found}"


def parse_kept_names(text: str | None) -> tuple[str, ...]:
    """Return the names of an option such as ``score,url``.

    Raises:
        ValueError: if a name is empty, or given twice.
    """
    names = [] if text is None else [column_identifier(name) if name.strip() else "" for name in text.split(",")]
    for name in names:
        if not name.strip("_") or names.count(name) > 1:
            what = f"{name} twice" if name.strip("_") else "an empty name"
            raise ValueError(f"--keep-columns {text!r} has {what}; give names such as score,url")
    return tuple(names)


def pick_values(row: Mapping[str, Any], keep: Sequence[str]) -> dict[str, Value]:
    """Return the values of a row's columns of the names ``keep``; columns that the row lacks are left out.

    Raises:
        ValueError: if two columns have one name, or a value can not be kept.
    """
    found: dict[str, str] = {}
    for name in row if keep else ():
        known = column_identifier(name)
        if known in keep and found.setdefault(known, name) != name:
            raise ValueError(f"columns {found[known]!r} and {name!r} have one name; rename or remove one of the two")
    return {known: plain_value(row[name], name) for known, name in found.items()}


def plain_value(value: Any, name: str) -> Value:
    """Return a value of a column as a number, truth value or text; NaN and blank text are missing values.

    Dates become text in the notation of ISO 8601, which sorts by time.

    Raises:
        ValueError: naming the column, if the value is a list, an object, bytes, or an integer beyond 64 bits.
    """
    if isinstance(value, str):
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            raise ValueError(f"column {name!r} holds text that is not valid Unicode")
        return (value if isinstance(value, Text) else str(value)) if value.strip() else None
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if value is None or isinstance(value, bool) or (isinstance(value, int) and -(2**63) <= value < 2**63):
        return value  # type: ignore[no-any-return]
    what = "an integer beyond 64 bits" if isinstance(value, int) else f"a {type(value).__name__}"
    raise ValueError(f"column {name!r} holds {what}, and only numbers, truth values and text can be kept")


def settle_text(rows: Iterable[dict[str, Value]]) -> None:
    """Give the values of CSV files their types, in place: numbers or truth values where a whole column can be read so.

    Args:
        rows: kept values of each row.
    """
    kept, columns = list(rows), dict[str, set[str]]()
    for row in kept:
        for name, value in row.items():
            if isinstance(value, Text):
                columns.setdefault(name, set()).add(value)
    for name, values in columns.items():
        parsed = _parse_all(values)
        for row in kept:
            if isinstance(text := row.get(name), Text):
                row[name] = parsed[text]


def _parse_all(values: set[str]) -> dict[str, Value]:
    """Return the parsed form of all values of a column."""
    stripped = {value: value.strip() for value in values}
    if all(WHOLE.fullmatch(text) and -(2**63) <= int(text) < 2**63 for text in stripped.values()):
        return {value: int(text) for value, text in stripped.items()}
    numbers = {value: text for value, text in stripped.items() if text.casefold() != "nan"}
    if all(NUMBERS.fullmatch(text) for text in numbers.values()):
        return {value: float(numbers[value]) if value in numbers else None for value in values}
    if all(text.casefold() in TRUTH for text in stripped.values()):
        return {value: TRUTH[text.casefold()] for value, text in stripped.items()}
    return {value: str(value) for value in values}


def find_type(values: Iterable[Value]) -> str:
    """Return the type of a column by its values, a key of ``TYPES``; empty if all are missing."""
    names = {bool: "bool", int: "int64", float: "double", str: "string"}
    return join_types({names[type(value)] for value in values if value is not None})


def join_types(types: set[str]) -> str:
    """Return the type that holds the values of all ``types``: a double for two kinds of numbers, otherwise text."""
    given = types - {""}
    return "double" if given == {"int64", "double"} else "string" if len(given) > 1 else next(iter(given), "")


def cast_column(column: pa.ChunkedArray, kind: str) -> pa.ChunkedArray:
    """Return a column of one type of ``TYPES`` as another; an absent type counts as text."""
    return column.cast(TYPES[kind or "string"])


def kept_file(number: int) -> str:
    """Return the name of the file of part ``number``."""
    return f"columns-{number:06d}.parquet"


def write_part(out: str, number: int, columns: Mapping[str, list[Value]]) -> dict[str, str]:
    """Write the kept columns of part ``number``, and return the type of each; empty if all its values are missing.

    Raises:
        OSError: naming the file, if it cannot be written.
    """
    types = {name: find_type(values) for name, values in columns.items()}
    arrays = {}
    for name, values in columns.items():
        given: Sequence[Any] = values
        if types[name] == "string":
            given = [value if value is None else _as_text(value) for value in values]
        arrays[name] = pa.array(given, TYPES[types[name] or "string"])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(arrays), sink, compression="zstd")
    write_bytes(child_path(out, INGESTING, kept_file(number)), memoryview(sink.getvalue()))
    return types


def _as_text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def read_part(out: str, number: int, types: Mapping[str, str]) -> pa.Table:
    """Return the kept columns of part ``number``, in the types of the whole data set.

    Raises:
        FileNotFoundError: if the file does not exist.
    """
    system, inside = open_filesystem(child_path(out, INGESTING, kept_file(number)))
    with system.open_input_file(inside) as source:
        table = pq.read_table(source)
    return pa.table({name: cast_column(table.column(name), kind) for name, kind in types.items()})
