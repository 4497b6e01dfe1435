"""A folder of images, as people have it: with metadata, text files beside the images, or a subfolder for each class."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal

from raysde.data.kinds import IMAGE_SUFFIXES, unread_note
from raysde.data.samples import Bad, Sample
from raysde.data.sources.listing import Contents, Listing, Reader, shown, utf8
from raysde.data.sources.metadata import Said, metadata_files, read_metadata, sidecar

SPLITS = {"train", "training", "test", "testing", "val", "valid", "validation"}


@dataclass(frozen=True)
class Item:
    """One image: its path in the folder, what metadata says, and the text file to read if that holds no caption."""

    name: str
    captions: tuple[str, ...]
    label: str | None
    text: str | None


@dataclass
class FolderPart:
    """Some images of a folder."""

    root: str
    name: str
    items: tuple[Item, ...]
    count: int | None = field(init=False)

    def __post_init__(self) -> None:
        self.count = len(self.items)

    def read(self) -> Iterator[Sample | Bad]:
        """The images in order; one is Bad if it or its text file is missing, or the text is not UTF-8."""
        reader = Reader(self.root)
        for item in self.items:
            try:
                captions = item.captions
                if item.text is not None:
                    captions = sidecar(utf8(reader(item.text), item.text))
                yield Sample(item.name, reader(item.name), captions, item.label)
            except ValueError as error:
                yield Bad(item.name, str(error))


def open_folder(listing: Listing, part_rows: int, order: Literal["random", "source"]) -> Contents:
    """The images of a listing, in name order or in the order of a hash of their names.

    Raises:
        ValueError: if the listing is not of a folder, or its metadata is wrong; naming the culprit.
    """
    if not listing.folder:
        raise ValueError(f"source {listing.given} is made of single images, expected the folder that holds them")
    images = listing.names(*IMAGE_SUFFIXES)
    described = metadata_files(listing)
    said: dict[str, Said] = {}
    known = set(images)
    identity = [hashlib.sha256(read_metadata(listing, file, known, said)).hexdigest() for file in described]
    labels, notes = _folder_labels(listing, images, said)
    texts = set(listing.names(".txt"))
    items = [_item(name, said.get(name, Said()), labels.get(name), texts) for name in images]
    notes += _remarks(listing, items, described)
    read = {*images, *described, *(item.text for item in items if item.text), *listing.names(".csv", ".tsv")}
    notes += unread_note((file.name for file in listing.files), read)
    if order == "random":
        items.sort(key=lambda item: (hashlib.blake2b(item.name.encode(), digest_size=16).digest(), item.name))
    parts = [
        FolderPart(listing.root, f"images#{start}", tuple(items[start : start + part_rows]))
        for start in range(0, len(items), part_rows)
    ]
    return Contents(parts, len(items), tuple(notes), tuple(identity))


def _item(name: str, said: Said, label: str | None, texts: set[str]) -> Item:
    beside = str(PurePosixPath(name).with_suffix(".txt"))
    text = beside if beside in texts and not said.captions else None
    return Item(name, said.captions, said.label if label is None else label, text)


def _folder_labels(listing: Listing, images: list[str], said: dict[str, Said]) -> tuple[dict[str, str], list[str]]:
    """The first folder's name for each image, if metadata gives no label and there are several such folders."""
    folders = {name: name.partition("/")[0] for name in images if "/" in name}
    names = sorted(set(folders.values()))
    if len(folders) < len(images) or len(names) < 2 or any(entry.label is not None for entry in said.values()):
        return {}, []
    if {name.lower() for name in names} <= SPLITS:
        return {}, [
            f"the subfolders ({shown(names)}) are named like splits, so no label is taken from them and all are read; "
            f"give {listing.path(names[0])} to read one"
        ]
    return folders, [f"labels are the names of the {len(names)} subfolders: {shown(names, 10)}"]


def _remarks(listing: Listing, items: list[Item], described: list[str]) -> list[str]:
    notes = []
    unread = sorted(set(listing.names(".csv", ".tsv")) - set(described))
    if unread:
        notes.append(f"not read, since there is {described[0]}: {shown(unread)}")
    silent = sum(not item.captions and item.text is None for item in items)
    if silent:
        notes.append(f"{silent} of {len(items)} images have no caption of their own")
    return notes
