"""Prompt files: one image to sample for each row. Image 0 belongs to the first row; messages count rows from 1.

FILE.txt                             one prompt a line
FILE.csv, .tsv, .jsonl, .parquet     columns prompt, label, the model's numeric attributes by name, and for models with
                                     an image condition paths in image and mask; optionally seed and negative
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from raysde.data.attributes import parse_number
from raysde.data.classes import Label, describe_unknown
from raysde.data.ingest.sources.columns import find_spellings, normalise_name
from raysde.data.ingest.sources.listing import decode_utf8
from raysde.data.ingest.sources.text_rows import JSON_LINES, TABLES, json_rows, table_rows
from raysde.io.filesystems import absolute_location, child_path, read_bytes

COLUMNS = ("prompt", "label", "seed", "negative")
KINDS = (".txt", *JSON_LINES, ".parquet", *TABLES)

Value = TypeVar("Value", str, int, float)
NUMBER = re.compile(r"\s*(-?\d{1,19})(\.0*)?\s*")
"""Integer in text; pandas writes 7.0 in a column with missing values."""


@dataclass(frozen=True)
class Requests:
    """Prompts, labels, seeds and negative prompts of the images to sample.

    Attributes:
        file: path or URI of the prompt file, for messages.
        count: number of images.
        prompts, labels: one for each image, None without that column; a label is a class name or an int class number.
        seeds, negatives: one for each image, with None for the command's default; None without that column.
        attributes: numeric attributes by name, each with one number for each image, None for unknown.
        image_files: paths of the images that the model takes as conditions, by column, each with one for each image.
        unread: names of columns that are ignored.
    """

    file: str
    count: int
    prompts: list[str] | None = None
    labels: Sequence[Label] | None = None
    seeds: list[int | None] | None = None
    negatives: list[str | None] | None = None
    attributes: Mapping[str, list[float | None]] = field(default_factory=dict)
    image_files: Mapping[str, list[str]] = field(default_factory=dict)
    unread: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Hash of the requests in hexadecimal, equal for equal rows in files of different formats."""
        asked: list[Any] = [self.count, self.prompts, self.labels, self.seeds, self.negatives]
        asked += [each for each in (self.attributes, self.image_files) if each]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()

    def labelled(self, classes: int, names: Sequence[str]) -> "Requests":
        """Return the requests with labels in a model's form: class names if it stores them, else class numbers.

        Args:
            classes: number of the model's classes.
            names: their names in order, empty if the model stores none.

        Raises:
            ValueError: naming the first row whose label is no class of the model.
        """
        if self.labels is None or not classes:
            return self
        found = list(self.labels)
        for row, label in enumerate(self.labels):
            if isinstance(label, int) or label in names:
                continue
            number = None if names else NUMBER.fullmatch(label)
            if number is None:
                raise ValueError(f"{self.file}, row {row + 1}: label {describe_unknown(label, classes, names)}")
            found[row] = int(number[1])
        return replace(self, labels=found)

    def fit(self, *, prompts: bool, classes: int, names: Sequence[str] = ()) -> None:
        """Check that a model with a text encoder if ``prompts``, and with these classes, can sample every row.

        Raises:
            ValueError: naming the first row that the model cannot sample.
        """
        if not prompts and (self.prompts is not None or self.negatives is not None):
            raise ValueError(f"{self.file}, row 1 has a prompt, but the model takes no prompts; remove the column")
        if not classes and self.labels is not None:
            raise ValueError(f"{self.file}, row 1 has a label, but the model has no classes; remove the column")
        for row, label in enumerate(self.labelled(classes, names).labels or (), 1):
            if isinstance(label, int) and not 0 <= label < classes:
                raise ValueError(f"{self.file}, row {row} has label {label}, but the model's are 0 to {classes - 1}")


def read_requests(file: str, attributes: Sequence[str] = (), image_columns: Sequence[str] = ()) -> Requests:
    """Read a prompt file by path or URI.

    Args:
        attributes: names of the model's numeric attributes, which are columns of the file.
        image_columns: columns of paths of images that the model takes as conditions, relative to the file.

    Raises:
        ValueError: naming the file, and the row if one is wrong.
    """
    kind = PurePosixPath(file.partition("?")[0] if "://" in file else file).suffix.lower()
    if kind not in KINDS:
        raise ValueError(f"prompt file {file} must end in {', '.join(KINDS)}")
    try:
        content = read_bytes(file)
    except (FileNotFoundError, IsADirectoryError):
        raise ValueError(f"there is no prompt file {file}") from None
    names, columns = read_columns(content, kind, file, (*COLUMNS, *attributes, *image_columns))
    count = max(map(len, columns.values()), default=0)
    if not columns.keys() & {"prompt", "label", *attributes, *image_columns} and (names or not count):
        there = f"its columns are {', '.join(names)}" if names else "it is empty"
        more = f" nor one of {', '.join((*attributes, *image_columns))}" if attributes or image_columns else ""
        raise ValueError(
            f"prompt file {file} has neither a column prompt nor a column label{more}: {there}; add one of them"
        )
    if not count:
        raise ValueError(f"prompt file {file} has no rows")
    return Requests(
        file,
        count,
        prompts=parse_complete_column(columns, "prompt", parse_text, file),
        labels=parse_complete_column(columns, "label", parse_label_cell, file),
        seeds=parse_column(columns, "seed", parse_whole_number, file),
        negatives=parse_column(columns, "negative", parse_text, file),
        attributes={
            name: parse_column(columns, name, parse_number, file) or [] for name in attributes if name in columns
        },
        image_files={
            name: [locate_beside(file, path) for path in found]
            for name in image_columns
            if (found := parse_complete_column(columns, name, parse_text, file))
        },
        unread=tuple(name for name in names if normalise_name(name) not in (*COLUMNS, *attributes, *image_columns)),
    )


def locate_beside(file: str, path: str) -> str:
    """Return the path or URI of an image that a prompt file names, relative to the prompt file."""
    if "://" in path or Path(path).is_absolute():
        return path
    place, _, options = file.partition("?") if "://" in file else (absolute_location(file), "", "")
    return child_path(place.rpartition("/")[0] + (f"?{options}" if options else ""), path)


def read_columns(content: bytes, kind: str, file: str, wanted: Sequence[str]) -> tuple[list[str], dict[str, list[Any]]]:
    """Return all column names of a file with the suffix ``kind``, and the values of its columns in ``wanted``.

    Raises:
        ValueError: if the file is not in the format of its suffix, or has a column twice.
    """
    if kind == ".parquet":
        return read_parquet_columns(content, file, wanted)
    lines = decode_utf8(content, file).replace("\r\n", "\n")
    if kind == ".txt":
        return ["prompt"], {"prompt": lines.removesuffix("\n").split("\n") if lines else []}
    rows = list(json_rows(lines, file) if kind in JSON_LINES else table_rows(lines, file, TABLES[kind]))
    names = list(dict.fromkeys(name for row in rows for name in row))
    return names, {key: [row.get(name) for row in rows] for key, name in choose_columns(names, file, wanted).items()}


def choose_columns(names: list[str], file: str, wanted: Sequence[str]) -> dict[str, str]:
    """Return the columns of ``wanted`` that a file has, each with its spelling there.

    Raises:
        ValueError: naming the file and a column that occurs twice, in one spelling or in two.
    """
    try:
        return find_spellings(names, wanted)
    except ValueError as error:
        raise ValueError(f"prompt file {file}: {error}") from error


def read_parquet_columns(content: bytes, file: str, wanted: Sequence[str]) -> tuple[list[str], dict[str, list[Any]]]:
    """Return column names and values as :func:`read_columns`, from a Parquet file.

    Raises:
        ValueError: naming the file, if it is damaged or no Parquet file.
    """
    try:
        opened = pq.ParquetFile(pa.BufferReader(content))
        names = list(opened.schema_arrow.names)
        asked = choose_columns(names, file, wanted)
        table = opened.read(columns=list(asked.values()))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"prompt file {file} is not whole Parquet: {' '.join(str(error).split())[:160]}") from error
    return names, {key: table.column(name).to_pylist() for key, name in asked.items()}


def parse_complete_column(
    columns: Mapping[str, list[Any]], name: str, parse: Callable[[Any], Value | None], file: str
) -> list[Value] | None:
    """Return the parsed values of a column that needs a value in every row; None if there is no such column.

    Raises:
        ValueError: naming the first row without a value, or with one that ``parse`` refuses.
    """
    values = parse_column(columns, name, parse, file)
    if values is None:
        return None
    found: list[Value] = []
    for row, value in enumerate(values):
        if value is None:
            raise ValueError(f"{file}, row {row + 1} has no {name}")
        found.append(value)
    return found


def parse_column(
    columns: Mapping[str, list[Any]], name: str, parse: Callable[[Any], Value | None], file: str
) -> list[Value | None] | None:
    """Return the parsed values of a column, None for empty cells; None if there is no such column.

    Raises:
        ValueError: naming the first row with a value that ``parse`` refuses.
    """
    if name not in columns:
        return None
    return list(parse_values(columns[name], name, parse, file))


def parse_values(
    values: Iterable[Any], name: str, parse: Callable[[Any], Value | None], file: str
) -> Iterable[Value | None]:
    """Yield the parsed values of a column.

    Raises:
        ValueError: naming the file and the row of a value that ``parse`` refuses.
    """
    for row, value in enumerate(values):
        try:
            yield parse(value)
        except ValueError as error:
            raise ValueError(f"{file}, row {row + 1} has the {name} {str(value)[:40]!r}, which is {error}") from None


def is_absent(value: Any) -> bool:
    """Return True if a cell is empty: null, blank, or the NaN that pandas writes for null."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def parse_text(value: Any) -> str | None:
    """Return a cell as text, None if it is empty.

    Raises:
        ValueError: with the rest of a sentence, "no text", if the cell is of another type.
    """
    if is_absent(value):
        return None
    if not isinstance(value, str):
        raise ValueError("no text")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError("not valid Unicode")
    return value


def parse_label_cell(value: Any) -> str | None:
    """Return a cell as the name of a class, None if it is empty; integers are written in decimal.

    Raises:
        ValueError: with the rest of a sentence, if the cell is neither text nor an integer.
    """
    if is_absent(value) or isinstance(value, str):
        named = parse_text(value)
        return None if named is None else named.strip()
    return str(parse_whole_number(value))


def parse_whole_number(value: Any) -> int | None:
    """Return a cell as a signed 64-bit integer, None if it is empty.

    Raises:
        ValueError: with the rest of a sentence, "no whole number", if it is something else.
    """
    if is_absent(value):
        return None
    if isinstance(value, str) and (found := NUMBER.fullmatch(value)):
        value = int(found[1])
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**63) <= value < 2**63:
        raise ValueError("no whole number")
    return value
