"""Sidecar files, each beside the one image that it describes: photo.txt, photo.caption or photo.json for photo.jpg."""

from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from raysde.data.ingest.kept_values import Value, pick_values
from raysde.data.ingest.sources.attribute_values import Values, merge_attributes, read_attributes
from raysde.data.ingest.sources.descriptions import Vocabulary, clean_captions, read_entry
from raysde.data.ingest.sources.listing import FileReader, Listing, decode_utf8
from raysde.io.documents import read_json

CAPTIONS = (".txt", ".text", ".caption")
JSON = ".json"


@dataclass(frozen=True)
class SidecarText:
    """Captions, label, attributes and kept values from the files beside an image, and a remark on each ignored key."""

    captions: tuple[str, ...] = ()
    label: str | None = None
    unread: tuple[str, ...] = ()
    attributes: Values = ()
    kept: dict[str, Value] = field(default_factory=dict, hash=False)


def pair_files(listing: Listing, images: list[str]) -> dict[str, tuple[str, ...]]:
    """Return the sidecar files of each image: its name with another suffix, ``a.txt``, or one more, ``a.png.txt``.

    A file whose name differs only in case belongs to an image if no other image or sidecar file competes.
    """
    exact: dict[str, list[str]] = defaultdict(list)
    alike: dict[str, set[str]] = defaultdict(set)
    for image in images:
        stem = str(PurePosixPath(image).with_suffix(""))
        exact[stem].append(image)
        exact[image].append(image)
        alike[stem.lower()].add(stem)
        alike[image.lower()].add(image)
    found: dict[str, list[str]] = defaultdict(list)
    texts = listing.names(*CAPTIONS, JSON)
    stems = {text: str(PurePosixPath(text).with_suffix("")) for text in texts}
    owned = {(stem, PurePosixPath(text).suffix.lower()) for text, stem in stems.items() if stem in exact}
    for text, stem in stems.items():
        if stem not in exact:
            others = alike.get(stem.lower(), set())
            other = next(iter(others)) if len(others) == 1 else None
            if other is None or (other, PurePosixPath(text).suffix.lower()) in owned:
                continue
            stem = other
        for image in exact[stem]:
            found[image].append(text)
    return {image: tuple(files) for image, files in found.items()}


def read_sidecars(files: tuple[str, ...], words: Vocabulary, reader: FileReader) -> SidecarText:
    """Read the files beside an image; equal captions are returned once.

    Raises:
        ValueError: naming the file, if one is missing, not UTF-8 or not valid, or two give different labels or values
            of an attribute.
    """
    captions: dict[str, None] = {}
    label: str | None = None
    unread: list[str] = []
    attributes: Values = ()
    kept: dict[str, Value] = {}
    for file in files:
        text = decode_utf8(reader(file), file)
        if not file.lower().endswith(JSON):
            captions.update(dict.fromkeys(text_captions(text)))
            continue
        row = read_json(text, file)
        if not isinstance(row, dict):
            unread.append(".json files without an object")
            continue
        more, other, keys = read_object(row, words, file)
        try:
            attributes = merge_attributes(attributes, read_attributes(row, words.attributes), words.attributes)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        kept |= pick_values(row, words.keep)
        if None not in (label, other) and label != other:
            raise ValueError(f"{file} has the label {other!r}, another file beside the image {label!r}")
        captions.update(dict.fromkeys(more))
        label = other if label is None else label
        unread += keys
    return SidecarText(tuple(captions), label, tuple(unread), attributes, kept)


def read_object(row: dict[str, Any], words: Vocabulary, where: str) -> tuple[tuple[str, ...], str | None, list[str]]:
    """Return captions and label from the JSON object of one image, and a remark on each ignored key.

    Raises:
        ValueError: naming ``where``, if a value is wrong, or a selected key is absent.
    """
    replace(words, attributes=()).require(row, where)  # an image may lack an attribute
    try:
        captions, label = read_entry(row, words)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return captions, label, [f"key {key!r} of .json" for key in row if not words.uses(key)]


def text_captions(text: str) -> tuple[str, ...]:
    """Return the captions of a text file, one a line.

    Raises:
        ValueError: if one holds half a surrogate pair, which UTF-8 cannot express.
    """
    return clean_captions(text.split("\n"))
