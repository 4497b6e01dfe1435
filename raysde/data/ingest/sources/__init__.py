"""Sources of an ingest: image folders, WebDataset archives, Parquet files and arrays, local or remote."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from raysde.data.attributes import check_attribute_name
from raysde.data.condition_column import check_condition_name
from raysde.data.ingest.samples import SourcePart
from raysde.data.ingest.sources.arrays import open_arrays
from raysde.data.ingest.sources.columns import normalise_name
from raysde.data.ingest.sources.descriptions import Named, Vocabulary, read_names
from raysde.data.ingest.sources.folder import open_folder
from raysde.data.ingest.sources.listing import Contents, Listing, folder_root, list_files
from raysde.data.ingest.sources.ndarray import ARRAY_SUFFIXES
from raysde.data.ingest.sources.parquet import open_parquet
from raysde.data.ingest.sources.records import find_pieces, is_record
from raysde.data.ingest.sources.webdataset import TAR_SUFFIXES, open_webdataset
from raysde.images.kinds import IMAGE_SUFFIXES

SourceKind = Literal["folder", "webdataset", "parquet", "arrays"]
Order = Literal["random", "source"]
Missing = Literal["refuse", "bad"]
SUFFIXES: dict[SourceKind, tuple[str, ...]] = {
    "folder": IMAGE_SUFFIXES,
    "webdataset": TAR_SUFFIXES,
    "parquet": (".parquet",),
    "arrays": ARRAY_SUFFIXES,
}


@dataclass(frozen=True)
class Source:
    """A listed source, divided into parts.

    Attributes:
        kind: kind of the source.
        parts: parts that together hold every sample once.
        identity: hash of the files' names and sizes, the metadata's content and the options; equal hashes mean equal
            parts.
        count: number of samples, including unusable ones; None if it is unknown without reading them.
        notes: remarks for the user.
        labels: class names, ordered by class number, from ``label_names``; else empty.
        attributes: names of the numeric attributes that are read.
        condition: name of the second image that is read; None for none.
    """

    kind: SourceKind
    parts: tuple[SourcePart, ...]
    identity: str
    count: int | None
    notes: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    condition: str | None = None


def open_source(
    path: str,
    *,
    part_rows: int = 8192,
    order: Order = "random",
    images: str | None = None,
    label_names: str | None = None,
    caption_template: str | None = None,
    caption_column: str | None = None,
    label_column: str | None = None,
    attributes: Sequence[str] = (),
    keep: tuple[str, ...] = (),
    condition: str | None = None,
    missing: Missing = "refuse",
) -> Source:
    """List a source, recognise its kind and divide it into parts.

    Args:
        path: a folder, a file, or a glob in the path's last part; local, or a URI that pyarrow knows (``s3://...``).
        part_rows: number of samples in a part; exact for folders and arrays, approximate for Parquet. Each tar archive
            is one part.
        order: order of a folder's images, by a hash of their names so that each part mixes classes ("random"), or by
            name ("source"). Other kinds keep their order.
        images: folder to which paths in a Parquet column are relative; each file's own folder if None.
        label_names: text file of class names, one a line, for labels that are numbers.
        caption_template: caption of samples with a label and no caption, such as ``a photo of a {label}``.
        caption_column, label_column: the column or JSON key to read; the usual names if None.
        attributes: columns or JSON keys of numbers to store with the images.
        keep: names of the columns and JSON keys to keep for filters; width and height are not among them.
        condition: name of a second image: a column of images or paths, or the last word of the names of files beside
            the images, such as ``depth`` for ``0001.depth.png`` beside ``0001.png``.
        missing: treatment of images that are described and absent, or described wrongly: the source is refused, or
            each is an unusable sample.

    Raises:
        ValueError: naming the path or file, if it is missing, empty, mixed or nothing that is known here, if its
            metadata is wrong, or an option does not fit.
    """
    _check_options(part_rows, order, caption_template)
    listing = list_files(path)
    kind = recognise_kind(listing)
    second = None if condition is None else check_condition_name(normalise_name(condition))
    numbers = attribute_names(attributes)
    words = Vocabulary(caption_column, label_column, attributes=numbers, keep=keep, condition=second)
    check_distinct(words)
    if words != Vocabulary() and kind == "arrays":
        raise ValueError(f"source {path} is of arrays, which have no columns; leave {words.options} out")
    if images is not None and kind != "parquet":
        raise ValueError(
            f"images {images} is given, but source {path} is not of Parquet files with paths; leave --images out"
        )
    images = None if images is None else folder_root(images)
    contents = _open_contents(listing, kind, part_rows, order, images, words)
    if contents.faults and missing == "refuse":
        more = f" (and {len(contents.faults) - 1} more)" if len(contents.faults) > 1 else ""
        raise ValueError(f"{contents.faults[0]}{more}; --skip-bad leaves such entries out")
    names = () if label_names is None else read_names(label_names)
    parts = contents.parts
    if names or caption_template is not None:
        parts = [Named(part, names, caption_template) for part in parts]
    options: tuple[object, ...] = (kind, part_rows, order, images, names, caption_template, words)
    options += (words.attributes,) if words.attributes else ()
    options += (("keep", words.keep),) if words.keep else ()
    options += (("condition", second),) if second else ()
    identity = _hash_contents(listing, contents, options)
    return Source(kind, tuple(parts), identity, contents.count, contents.notes, tuple(names), numbers, second)


def check_distinct(words: Vocabulary) -> None:
    """Check that the name of the second image has no other use.

    Raises:
        ValueError: if it is also one of a caption, label, attribute or kept column.
    """
    if words.condition is not None and (words.reads(words.condition) or words.condition in words.keep):
        raise ValueError(
            f"--condition-image {words.condition!r} is also the name of captions, labels, attributes or kept columns; "
            "choose another column or rename it"
        )


def attribute_names(columns: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the attributes that are read from columns, such as ``stroke_width`` for ``Stroke Width``.

    Raises:
        ValueError: if a name cannot be one of an attribute, or is given twice.
    """
    names = tuple(normalise_name(column) for column in columns)
    for place, name in enumerate(names):
        check_attribute_name(name)
        if name in names[:place]:
            raise ValueError(f"attribute {name!r} is asked for twice; name it once")
    return names


def _check_options(part_rows: int, order: Order, caption_template: str | None) -> None:
    """Raise ValueError if an option is invalid for any source."""
    if part_rows < 1:
        raise ValueError(f"part_rows is {part_rows}, expected at least 1")
    if order not in ("random", "source"):
        raise ValueError(f"order is {order!r}, expected 'random' or 'source'")
    if caption_template is not None and "{label}" not in caption_template:
        raise ValueError(
            f"caption_template {caption_template!r} does not hold {{label}}; write it where the label goes"
        )


def recognise_kind(listing: Listing) -> SourceKind:
    """Return the kind of a source from its files' suffixes; tables that img2dataset left beside images do not count.

    Raises:
        ValueError: naming the path, if there are no files, no files of a known kind, or files of several kinds.
    """
    found = {kind: names for kind, suffixes in SUFFIXES.items() if (names := listing.names(*suffixes))}
    downloaded = find_pieces(listing) if len(found) > 1 and "parquet" in found else frozenset()
    if downloaded and all(is_record(name, downloaded) for name in found["parquet"]):
        del found["parquet"]
    if not found:
        known = ", ".join(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
        empty = "is empty" if not listing.files else "holds no file that is read"
        raise ValueError(
            f"source {listing.given} {empty}; name a file, folder or glob with files of these kinds: {known}"
        )
    if len(found) > 1:
        examples = ", ".join(names[0] for names in found.values())
        glob = listing.path("*" + next(SUFFIXES[kind][0] for kind in found if kind != "folder"))
        raise ValueError(f"source {listing.given} holds files of several kinds ({examples}); give one, such as {glob}")
    return next(iter(found))


def _open_contents(
    listing: Listing, kind: SourceKind, part_rows: int, order: Order, images: str | None, words: Vocabulary
) -> Contents:
    match kind:
        case "folder":
            return open_folder(listing, part_rows, order, words)
        case "webdataset":
            return open_webdataset(listing, words)
        case "parquet":
            return open_parquet(listing, part_rows, images, words)
        case "arrays":
            return open_arrays(listing, part_rows)


def _hash_contents(listing: Listing, contents: Contents, options: tuple[object, ...]) -> str:
    files = [(file.name, file.size) for file in listing.files]
    return hashlib.sha256(repr((files, contents.identity, options)).encode()).hexdigest()[:16]
