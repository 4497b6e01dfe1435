"""Tables that describe the images of a folder, with a row for each image or caption: JSON lines, CSV and TSV."""

from pathlib import PurePosixPath
from typing import Any

from raysde.data.ingest.kept_values import Text
from raysde.data.ingest.sources.attribute_values import read_attributes
from raysde.data.ingest.sources.book import Book
from raysde.data.ingest.sources.columns import nonempty_values, normalise_name, summarise_columns
from raysde.data.ingest.sources.descriptions import FILE_KEYS, read_entry
from raysde.data.ingest.sources.listing import Listing, decode_utf8, normalise_path, summarise_names
from raysde.data.ingest.sources.text_rows import JSON_LINES, TABLES, json_rows, table_rows


def metadata_files(listing: Listing) -> list[str]:
    """Return the tables that describe the images, as paths in the source.

    These are all files metadata.jsonl, else all metadata.csv and metadata.tsv, else the only table.

    Raises:
        ValueError: if there are several tables of other names.
    """
    tables = listing.names(*JSON_LINES, *TABLES)
    named = [name for name in tables if PurePosixPath(name).stem.lower() == "metadata"]
    lines = [name for name in named if name.lower().endswith(JSON_LINES)]
    if len(tables) > 1 and not named:
        raise ValueError(
            f"source {listing.given} holds {len(tables)} tables (JSON lines, CSV or TSV), expected one: "
            f"{summarise_names(tables)}; name those that describe the images metadata.jsonl or metadata.csv"
        )
    return lines or named or tables


def read_metadata(listing: Listing, file: str, book: Book) -> bytes:
    """Add the captions and labels of one table to ``book``, and refuse wrong rows; return the table's bytes.

    Raises:
        ValueError: naming the file, if it is not UTF-8 or not valid, or all its rows are wrong.
    """
    data = listing.read(file)
    where = listing.path(file)
    text = decode_utf8(data, where)
    folder, delimiter = PurePosixPath(file).parent, TABLES.get(PurePosixPath(file).suffix.lower())
    refused: list[str] = []

    def refuse(place: str, sentence: str, row: dict[str, Any]) -> None:
        refused.append(sentence)
        refuse_row(place, sentence, row, folder, book)

    rows = json_rows(text, where, refuse) if delimiter is None else table_rows(text, where, delimiter, refuse)
    columns: dict[str, None] = {}
    read = 0
    for row in rows:
        columns.update(dict.fromkeys(row))
        place = f"{where}, entry {read + len(refused) + 1}"
        try:
            read_row(row if delimiter is None else _mark_text(row), place, folder, book)
            read += 1
        except ValueError as error:
            refuse(place, f"{place}: {error}", row)
    if refused and not read:
        raise ValueError(refused[0])
    book.require(columns, where)
    book.notes += (
        column_notes(file, columns, book) if columns else [f"{file} has no rows, so that it describes no image"]
    )
    return data


def read_row(row: dict[str, Any], where: str, folder: PurePosixPath, book: Book) -> None:
    """Add the captions and label of one row, of a table in ``folder``, to ``book``.

    Raises:
        ValueError: if the row names no image, or a value is wrong.
    """
    name = find_image(row, folder, book)
    captions, label = read_entry(row, book.words)
    if name in book.names:
        numbers, kept = read_attributes(row, book.words.attributes), book.pick(row, folder)
        book.add(name, captions, label, numbers, kept)
    else:
        book.miss(name, where)


def _mark_text(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of a CSV with its values marked, since their types are not known yet."""
    return {name: Text(value) if isinstance(value, str) else value for name, value in row.items()}


def refuse_row(place: str, sentence: str, row: dict[str, Any], folder: PurePosixPath, book: Book) -> None:
    """Refuse the image of a wrong row, which would lack the row's captions and label, or the row if it names none."""
    try:
        name = find_image(row, folder, book)
    except ValueError:
        name = place
    book.refuse(name, sentence)


def find_image(row: dict[str, Any], folder: PurePosixPath, book: Book) -> str:
    """Return the path of the image that a row describes; the image may be absent.

    Raises:
        ValueError: if no column names an image, or two columns name two different images.
    """
    taken = (*book.words.captions, *book.words.labels, book.words.condition)
    values = nonempty_values(row, [key for key in FILE_KEYS if key not in taken])
    paths = {name: value for name, value in values.items() if isinstance(value, str) and value.strip()}
    if not paths:
        raise ValueError(
            f"no image is named (one of the keys {', '.join(FILE_KEYS)}; there are {summarise_columns(row)}); move "
            "the file "
            "out of the source if it does not describe the images"
        )
    first = str(folder / normalise_path(next(iter(paths.values()))))
    if first not in book.names:
        first = str(folder / normalise_path(next(iter(paths.values())).strip()))
    others = {column: str(folder / PurePosixPath(path.strip())) for column, path in list(paths.items())[1:]}
    for column, other in others.items():
        if other != first and other in book.names and first in book.names:
            raise ValueError(f"columns {next(iter(paths))!r} and {column!r} name two images, {first!r} and {other!r}")
    return first


def column_notes(file: str, columns: dict[str, None], book: Book) -> list[str]:
    """Return remarks about ignored columns, and about a missing column of captions."""
    unread = [name for name in columns if normalise_name(name) not in FILE_KEYS and not book.words.uses(name)]
    notes = [f"{file}: columns {summarise_columns(unread)} are not read"] if unread else []
    there = {normalise_name(name) for name in columns}
    if columns and not there & set(book.words.captions):
        notes.append(
            f"{file} has no column of captions ({', '.join(book.words.captions)}); its columns are "
            f"{summarise_columns(columns)}; --caption-column NAME reads another"
        )
    return notes
