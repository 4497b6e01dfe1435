"""JSON documents that describe many images of a folder.

EDM and StyleGAN   {"labels": [["00000/img00000000.png", 3], ...]}, or a map {"00000/img00000000.png": 3, ...}
                   instead of the pairs, or null for no labels
COCO captions      {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [{"image_id": 1, "caption": "..."}]}
rows               [{"file_name": "1.jpg", "text": "...", "label": 3}, ...]
by name            {"1.jpg": "a caption", "2.jpg": ["one", "another"], "3.jpg": {"caption": "...", "label": 3}}
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from raysde.data.ingest.kept_values import Value
from raysde.data.ingest.sources.attribute_values import Values, read_attributes
from raysde.data.ingest.sources.book import Book
from raysde.data.ingest.sources.columns import normalise_name
from raysde.data.ingest.sources.descriptions import FILE_KEYS, parse_captions, parse_label, read_entry
from raysde.data.ingest.sources.listing import Listing, decode_utf8, summarise_names
from raysde.data.ingest.sources.metadata import column_notes, find_image
from raysde.io.documents import read_json

LARGEST = 1 << 30


def read_catalogue(listing: Listing, file: str, book: Book) -> bytes | None:
    """Add the captions and labels of one JSON document to ``book``; return its bytes, or None for an unknown form.

    Raises:
        ValueError: naming the file, if the document is not valid JSON, lacks a column that was chosen, or describes no
            image at all.
    """
    if next(one.size for one in listing.files if one.name == file) > LARGEST:
        return None
    data = listing.read(file)
    where = listing.path(file)
    document = read_json(decode_utf8(data, where), where)
    reader = _choose_reader(document, PurePosixPath(file), book)
    if reader is None:
        return None
    reader(document, where, PurePosixPath(file), book)
    return data


def _choose_reader(
    document: Any, file: PurePosixPath, book: Book
) -> Callable[[Any, str, PurePosixPath, Book], None] | None:
    if isinstance(document, list):
        rows = document and all(isinstance(row, dict) for row in document)
        return _read_rows if rows and any(normalise_name(key) in FILE_KEYS for key in document[0]) else None
    if not isinstance(document, dict):
        return None
    if _find_labels(document, file, book) is not None:
        return _read_labels
    if isinstance(document.get("images"), list) and isinstance(notes := document.get("annotations"), list):
        captions = any(isinstance(note, dict) and "caption" in note for note in notes)
        paths = [image.get("file_name") for image in document["images"] if isinstance(image, dict)]
        here = any(_is_image(path, file, book) for path in paths if isinstance(path, str))
        return _read_coco if captions and here else None
    return _read_names if _names_images(document, file, book) else None


def _find_labels(document: dict[str, Any], file: PurePosixPath, book: Book) -> tuple[str, list[Any]] | None:
    """Return the key of a document's labels and their pairs (name, label), [] for null; None if it has no labels."""
    for key in document:
        if normalise_name(key) == "labels":
            value = document[key] or []
            if isinstance(value, dict) and _names_images(value, file, book):
                value = [[*pair] for pair in value.items()]
            if isinstance(value, list) and all(map(_is_pair, value)):
                return key, value
    return None


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def _names_images(document: dict[str, Any], file: PurePosixPath, book: Book) -> bool:
    """Return True if a key is an image's path or name; keys without a suffix count only if most keys are images."""
    found = [_is_image(key, file, book) for key in document]
    return any(yes and PurePosixPath(key).suffix for yes, key in zip(found, document, strict=True)) or (
        2 * sum(found) > len(found)
    )


def _is_image(key: str, file: PurePosixPath, book: Book) -> bool:
    try:
        return book.find(key, file.parent) is not None
    except ValueError:
        return False


def _add_entry(
    book: Book,
    given: str,
    file: PurePosixPath,
    where: str,
    captions: tuple[str, ...],
    label: str | None,
    attributes: Values = (),
    kept: dict[str, Value] | None = None,
) -> None:
    name = book.find(given, file.parent)
    if name is None:
        book.miss(given, where)
    else:
        book.add(name, captions, label, attributes, kept)


def _refuse_entry(book: Book, given: str | None, file: PurePosixPath, where: str, error: Exception) -> None:
    """Refuse the image of a wrong entry, or the entry itself if it names none."""
    try:
        name = given and (book.find(given, file.parent) or given)
    except ValueError:
        name = None
    book.refuse(name or where, f"{where}: {error}")


def _read_labels(document: Any, where: str, file: PurePosixPath, book: Book) -> None:
    """Read the dataset.json of EDM and StyleGAN."""
    found = _find_labels(document, file, book)
    assert found is not None
    book.labelled = str(file)
    for number, (name, label) in enumerate(found[1], start=1):
        try:
            if isinstance(label, list):
                raise ValueError(f"its label {str(label)[:40]} is a list, expected one class number")
            _add_entry(book, name, file, f"{where}, label {number}", (), parse_label(label))
        except ValueError as error:
            _refuse_entry(book, name, file, f"{where}, label {number} ({name})", error)
    others = [key for key in document if key != found[0]]
    if others:
        book.notes.append(f"{file}: {summarise_names(others)} {'is' if len(others) == 1 else 'are'} not read")


def _read_coco(document: Any, where: str, file: PurePosixPath, book: Book) -> None:
    """Read COCO's captions."""
    files: dict[Any, str] = {}
    kept: dict[Any, tuple[Values, dict[str, Value]]] = {}
    for number, image in enumerate(document["images"], start=1):
        name, key = (image.get("file_name"), image.get("id")) if isinstance(image, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(key, (int, str)):
            raise ValueError(f"{where}, image {number} has no id or no file_name")
        if files.setdefault(key, name) != name:
            raise ValueError(f"{where}: images {files[key]!r} and {name!r} have the id {key!r}")
        kept[key] = (), {}
        try:
            kept[key] = read_attributes(image, book.words.attributes), book.pick(image, file.parent)
        except ValueError as error:
            _refuse_entry(book, name, file, f"{where}, image {number}", error)
    book.labelled = str(file)
    lost: list[str] = []
    for number, note in enumerate(document["annotations"], start=1):
        place, given = f"{where}, annotation {number}", None
        try:
            if (key := note.get("image_id")) not in files:
                other = next((known for known in files if str(known) == str(key)), None)
                remedy = "" if other is None else f", only one with {other!r}; write ids the same way in both lists"
                raise ValueError(f"there is no image with the id {key!r}{remedy}")
            given = files[key]
            _add_entry(book, given, file, place, parse_captions(note.get("caption")), None, *kept[note["image_id"]])
        except (ValueError, AttributeError, TypeError) as error:
            _refuse_entry(book, given, file, place, error)
            lost += [] if given else [f"{place}: {error}"]
    if lost and len(lost) == len(document["annotations"]):
        raise ValueError(lost[0])
    if book.words.attributes or book.words.keep:
        columns = dict.fromkeys(key for image in document["images"] for key in image)
        replace(book.words, caption=None, label=None).require(columns, where)
        book.words.require_kept(columns, where)
        book.columns = True


def _read_rows(document: Any, where: str, file: PurePosixPath, book: Book) -> None:
    """Read a list of rows with the keys of metadata.jsonl."""
    columns: dict[str, None] = {}
    for number, row in enumerate(document, start=1):
        columns.update(dict.fromkeys(row))
        given = None
        try:
            given = find_image(row, PurePosixPath(), book)
            captions, label = read_entry(row, book.words)
            numbers, kept = read_attributes(row, book.words.attributes), book.pick(row, file.parent)
            _add_entry(book, given, file, f"{where}, entry {number}", captions, label, numbers, kept)
        except ValueError as error:
            _refuse_entry(book, given, file, f"{where}, entry {number}", error)
    book.require(columns, where)
    book.notes += column_notes(str(file), columns, book)


def _read_names(document: Any, where: str, file: PurePosixPath, book: Book) -> None:
    """Read captions by the images' names, or labels if the file is named after labels or classes."""
    columns: dict[str, None] = {}
    of_labels = any(
        word in normalise_name(file.stem) for word in ("label", "class")
    ) and "caption" not in normalise_name(file.stem)
    for name, value in document.items():
        captions: tuple[str, ...] = ()
        label, kept = None, dict[str, Value]()
        numbers: Values = ()
        try:
            if isinstance(value, dict):
                columns.update(dict.fromkeys(value))
                captions, label = read_entry(value, book.words)
                numbers = read_attributes(value, book.words.attributes)
                kept = book.pick(value, file.parent)
            elif of_labels or isinstance(value, (int, float)):
                label = parse_label(value)
            else:
                captions = parse_captions(value)
            _add_entry(book, name, file, f"{where}, key {name!r}", captions, label, numbers, kept)
        except ValueError as error:
            _refuse_entry(book, name, file, f"{where}, key {name!r}", error)
    if columns:
        book.require(columns, where)
    book.notes += column_notes(str(file), columns, book)
