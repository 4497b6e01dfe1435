"""Folders of images with metadata, with files beside the images, or with a subfolder for each class."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from raysde.data.ingest.kept_values import Value, settle_text
from raysde.data.ingest.samples import Bad, Sample
from raysde.data.ingest.sources.attribute_values import Values, merge_attributes
from raysde.data.ingest.sources.book import Book, Said
from raysde.data.ingest.sources.catalogues import read_catalogue
from raysde.data.ingest.sources.descriptions import ANY, Vocabulary
from raysde.data.ingest.sources.listing import Contents, FileReader, Listing, summarise_names
from raysde.data.ingest.sources.metadata import metadata_files, read_metadata
from raysde.data.ingest.sources.records import find_pieces, is_record
from raysde.data.ingest.sources.second_images import leave_seconds, pair_seconds, second_file
from raysde.data.ingest.sources.sidecars import CAPTIONS, JSON, SidecarText, pair_files, read_sidecars
from raysde.data.ingest.sources.text_rows import JSON_LINES, TABLES
from raysde.images.kinds import IMAGE_SUFFIXES, unread_note

SPLIT = re.compile(r"(train|training|test|testing|val|valid|validation|dev)([-_ ]?(\d+|set|images?|data))?")
DESCRIPTIVE = (JSON, *JSON_LINES, *TABLES, *CAPTIONS, ".yaml", ".yml", ".xml", ".xlsx", ".arrow", ".parquet")


@dataclass(frozen=True)
class FolderImage:
    """One image of a folder.

    Attributes:
        name: path in the folder.
        captions, label, attributes: descriptions from tables and JSON documents of many images.
        files: files beside the image to read.
        problem: an error sentence if the image is described and absent, or wrongly described.
        kept: values to keep from tables and JSON documents of many images.
        condition: path in the folder of the second image beside this one; None if there is none.
    """

    name: str
    captions: tuple[str, ...] = ()
    label: str | None = None
    files: tuple[str, ...] = ()
    problem: str | None = None
    attributes: Values = ()
    kept: dict[str, Value] = field(default_factory=dict, hash=False)
    condition: str | None = None


@dataclass
class FolderPart:
    """Some images of a folder, ``count`` of them, as a part of a source."""

    root: str
    name: str
    items: tuple[FolderImage, ...]
    words: Vocabulary = ANY
    count: int | None = field(init=False)

    def __post_init__(self) -> None:
        self.count = len(self.items)

    def read(self) -> Iterator[Sample | Bad]:
        """Yield the images in order; an image is a :class:`Bad` if it or a file beside it is missing or wrong."""
        reader = FileReader(self.root)
        for item in self.items:
            try:
                yield self._sample(item, reader)
            except ValueError as error:
                yield Bad(item.name, str(error))

    def _sample(self, item: FolderImage, reader: FileReader) -> Sample:
        if item.problem is not None:
            raise ValueError(item.problem)
        sidecar = read_sidecars(item.files, self.words, reader) if item.files else SidecarText()
        if None not in (item.label, sidecar.label) and item.label != sidecar.label:
            raise ValueError(
                f"image {item.name} has the label {sidecar.label!r} in {summarise_names(item.files)} and "
                f"{item.label!r} by its folder or in the metadata; make them equal or remove one"
            )
        label = sidecar.label if item.label is None else item.label
        try:
            attributes = merge_attributes(item.attributes, sidecar.attributes, self.words.attributes)
        except ValueError as error:
            raise ValueError(f"image {item.name}: {error}") from error
        captions, kept = item.captions or sidecar.captions, {**sidecar.kept, **item.kept}
        second = second_file(self.words.condition, kept, item.condition)
        condition = None if second is None else reader(second)
        return Sample(item.name, reader(item.name), captions, label, sidecar.unread, attributes, kept, condition)


def open_folder(
    listing: Listing, part_rows: int, order: Literal["random", "source"], words: Vocabulary = ANY
) -> Contents:
    """Return the images of a listing in parts of ``part_rows``, by name ("source") or a hash of names ("random").

    Raises:
        ValueError: if the listing is no folder, or naming the file if its metadata is wrong.
    """
    if not listing.folder:
        raise ValueError(f"source {listing.given} is made of single images, expected the folder that holds them")
    every = listing.names(*IMAGE_SUFFIXES)
    beside = pair_files(listing, every)
    pairs = {file for files in beside.values() for file in files}
    book = Book(frozenset(every), words)
    seconds = pair_seconds(every, book)
    described, identity = _read_descriptions(listing, book, pairs)
    if words.selects and not book.columns and not any(file.lower().endswith(JSON) for file in pairs):
        raise ValueError(f"source {listing.given} has no table and no JSON with columns; leave {words.options} out")
    images = leave_seconds(every, book, seconds)
    settle_text(entry.kept for entry in book.said.values())
    labels, notes = _folder_labels(listing, images, book)
    items = [
        replace(
            _make_item(name, book.said.get(name, Said()), labels.get(name), beside.get(name, ())),
            condition=seconds.get(name),
        )
        for name in images
        if name not in book.faults
    ]
    items += [FolderImage(name, problem=reason) for name, reason in book.faults.items()]
    notes += book.notes + _list_remarks(listing, items, described, beside)
    read = {*every, *described, *pairs, *listing.names(*DESCRIPTIVE)}
    notes += unread_note((file.name for file in listing.files), read)
    if order == "random":
        items.sort(key=lambda item: (hashlib.blake2b(item.name.encode(), digest_size=16).digest(), item.name))
    parts = [
        FolderPart(listing.root, f"images#{start}", tuple(items[start : start + part_rows]), words)
        for start in range(0, len(items), part_rows)
    ]
    identity.append(f"labels of {len(labels)} images from folders")
    return Contents(parts, len(items), tuple(notes), tuple(identity), tuple(book.faults.values()))


def _read_descriptions(listing: Listing, book: Book, beside: set[str]) -> tuple[list[str], list[str]]:
    """Read the tables, or else the JSON documents, that describe the images; return their names and hashes."""
    read: dict[str, bytes] = {file: read_metadata(listing, file, book) for file in metadata_files(listing)}
    if not read:
        records = find_pieces(listing)
        for file in listing.names(JSON):
            if file not in beside and not is_record(file, records):
                data = read_catalogue(listing, file, book)
                if data is not None:
                    read[file] = data
        if read:
            book.notes.append(f"captions and labels are read from {summarise_names(list(read))}")
    return list(read), [hashlib.sha256(data).hexdigest() for data in read.values()]


def _make_item(name: str, said: Said, label: str | None, beside: tuple[str, ...]) -> FolderImage:
    label = said.label if label is None else label
    files = () if said.captions else beside
    return FolderImage(name, said.captions, label, files, attributes=said.attributes, kept=said.kept)


def _folder_labels(listing: Listing, images: list[str], book: Book) -> tuple[dict[str, str], list[str]]:
    """Return the top subfolder as the label of each image if subfolders are classes, else {}; and remarks."""
    folders = {name: name.partition("/")[0] for name in images if "/" in name}
    names = sorted(set(folders.values()))
    labelled = any(entry.label is not None for entry in book.said.values())
    if labelled or not names:
        return {}, []
    if len(names) == 1 or len(folders) < len(images):
        return {}, _remark_on_folders(listing, folders, len(images), book)
    if book.labelled is not None:
        return {}, [f"{book.labelled} gives no labels, and none are taken from the {len(names)} subfolders"]
    if set(names) <= find_pieces(listing):
        return {}, [
            f"the subfolders ({summarise_names(names)}) are pieces of a download, so no label is taken from them"
        ]
    if all(SPLIT.fullmatch(name.lower()) for name in names):
        return {}, [
            f"the subfolders ({summarise_names(names)}) are named like splits, so no label is taken from them and all "
            "are read; "
            f"give {listing.path(names[0])} to read one"
        ]
    return folders, [f"labels are the names of the {len(names)} subfolders: {summarise_names(names, 10)}"]


def _remark_on_folders(listing: Listing, folders: dict[str, str], images: int, book: Book) -> list[str]:
    """Return a remark, or none, on subfolders that may be meant as classes but give no labels."""
    if book.labelled is not None:
        return []
    names = sorted(set(folders.values()))
    if len(names) > 1:
        return [
            f"no label is taken from the subfolders ({summarise_names(names)}), since {images - len(folders)} images "
            "lie beside "
            "them; move those to make classes of the subfolders"
        ]
    below = sorted({name.split("/")[1] for name in folders if name.count("/") > 1})
    if len(folders) < images or len(below) < 2:
        return []
    return [
        f"no label is taken from folders in folders ({summarise_names([f'{names[0]}/{name}' for name in below])}); "
        f"give {listing.path(names[0])} to make classes of them"
    ]


def _list_remarks(
    listing: Listing, items: list[FolderImage], described: list[str], beside: dict[str, tuple[str, ...]]
) -> list[str]:
    notes = []
    pairs = {file for files in beside.values() for file in files}
    unread = [name for name in listing.names(*DESCRIPTIVE) if name not in pairs and name not in described]
    downloaded = find_pieces(listing)
    records = [name for name in unread if is_record(name, downloaded)]
    if records:
        notes.append(f"records of a download are not read: {summarise_names(records)}")
    if others := [name for name in unread if name not in records]:
        reason = (
            f"since there is {described[0]}" if described else "since they are neither metadata nor beside an image"
        )
        notes.append(f"not read, {reason}: {summarise_names(others, 10)}")
    if passed := sum(1 for item in items if item.captions and item.name in beside):
        notes.append(f"files beside {passed} images are not read, since {described[0]} has their captions")
    silent = sum(not item.captions and not item.files and item.problem is None for item in items)
    if silent:
        notes.append(f"{silent} of {sum(item.problem is None for item in items)} images have no caption of their own")
    return notes
