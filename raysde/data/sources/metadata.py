"""Metadata files of an image folder: metadata.jsonl, or a CSV or TSV."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from raysde.data.sources.descriptions import clean, describe, first
from raysde.data.sources.listing import Listing, inside, shown, utf8

FILE_KEYS = ("file_name", "file", "image", "path")
TABLES = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class Said:
    """What metadata says about one image."""

    captions: tuple[str, ...] = ()
    label: str | None = None


def metadata_files(listing: Listing) -> list[str]:
    """The files that describe the images: every metadata.jsonl; else every metadata.csv or .tsv; else the one table.

    Raises:
        ValueError: if there are several tables of other names.
    """
    base = {name: PurePosixPath(name).name for name in listing.names(".jsonl", *TABLES)}
    tables = [name for name in base if not name.endswith(".jsonl")]
    named = [name for name in tables if base[name] in ("metadata.csv", "metadata.tsv")]
    if len(tables) > 1 and not named and "metadata.jsonl" not in base.values():
        raise ValueError(f"source {listing.given} holds {len(tables)} CSV or TSV files, expected one: {shown(tables)}")
    return [name for name in base if base[name] == "metadata.jsonl"] or named or tables


def read_metadata(listing: Listing, file: str, images: set[str], said: dict[str, Said]) -> bytes:
    """Adds what one metadata file says to ``said``, by image; returns the file's bytes.

    Raises:
        ValueError: naming the file and the line or entry, if it is not UTF-8, not valid, names no image or one that is
            not there, or gives an image another label than before.
    """
    data = listing.read(file)
    where = listing.path(file)
    text = utf8(data, where)
    delimiter = TABLES.get(PurePosixPath(file).suffix.lower())
    rows = json_rows(text, where) if delimiter is None else table_rows(text, where, delimiter)
    for number, row in enumerate(rows, start=1):
        try:
            name = _image(row, PurePosixPath(file).parent, images)
            captions, label = describe(row)
            before = said.get(name, Said())
            if label is not None and before.label not in (None, label):
                raise ValueError(f"image {name!r} has label {label!r} here and {before.label!r} before")
        except ValueError as error:
            raise ValueError(f"{where}, entry {number}: {error}") from error
        said[name] = Said(before.captions + captions, before.label if label is None else label)
    return data


def _image(row: dict[str, Any], folder: PurePosixPath, images: set[str]) -> str:
    given = first(row, FILE_KEYS)
    if not isinstance(given, str):
        raise ValueError(f"no image is named (one of the keys {', '.join(FILE_KEYS)})")
    name = str(folder / inside(given))
    if name not in images:
        raise ValueError(f"image {given!r} is not among the images of the source")
    return name


def parse(text: str, where: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: naming ``where``, if it is not one.
    """
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where} is not a JSON object")
    return row


def json_rows(text: str, where: str) -> Iterator[dict[str, Any]]:
    """The objects of JSON lines, of which blank ones are passed over.

    Raises:
        ValueError: naming the line, if it is no JSON object.
    """
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines: captions may hold U+2028
        if line.strip():
            yield parse(line, f"{where}, line {number}")


def table_rows(text: str, where: str, delimiter: str) -> Iterator[dict[str, Any]]:
    """The rows of a CSV with a header.

    Raises:
        ValueError: naming the line that is not valid, or has more fields than the header.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if None in row:
                raise ValueError(f"{where}, line {reader.line_num} has more fields than the header; quote such text")
            yield row
    except csv.Error as error:
        raise ValueError(f"{where}, line {reader.reader.line_num} is not valid: {error}") from error


def sidecar(text: str) -> tuple[str, ...]:
    """The captions of a text file, one a line."""
    return clean(text.split("\n"))
