"""Parquet files from other programs, with a column of images or of paths to images.

Columns are found by name, regardless of case; the first existing name in this order is the column of images:

    image     image, jpg, jpeg, png, webp, img, image_bytes, image_path, file_name, file, path and other names of paths;
              else an Image of Hugging Face's metadata, else the column of type struct<bytes, path>
    captions  text, caption, prompt, captions, or the name given by --caption-column
    label     label, class, labels, or the name given by --label-column
    numbers   the names given by --attributes
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pyarrow.types as pat

from raysde.data.ingest.kept_values import column_identifier, plain_value
from raysde.data.ingest.samples import Bad, Sample
from raysde.data.ingest.sources.attribute_values import parse_attribute
from raysde.data.ingest.sources.columns import find_spellings, normalise_name, summarise_columns
from raysde.data.ingest.sources.descriptions import ANY, FILE_KEYS, Vocabulary, parse_captions, parse_label
from raysde.data.ingest.sources.listing import (
    Contents,
    FileReader,
    Listing,
    group_by_size,
    normalise_path,
    open_root,
    split_note,
    summarise_names,
)

IMAGE_COLUMNS = tuple(
    dict.fromkeys(("image", "jpg", "jpeg", "png", "webp", "img", "image_bytes", "image_path", *FILE_KEYS))
)
BATCH = 64
Form = Literal["bytes", "struct", "path"]
"""Form of a column of images."""


@dataclass(frozen=True)
class ParquetColumns:
    """Names of the columns to read, the form of the images' column, the class names if any, and ignored columns.

    Attributes:
        image, caption, label: names of columns; None for a column that does not exist.
        classes: class names, to which integer labels are indices; empty if the file stores none.
        attributes: columns of numeric attributes, in the order in which they were asked for.
        unread: columns that are ignored.
        kept: columns that are kept for filters.
        condition, condition_form: column of the second images and its form; None without one.
    """

    image: str
    form: Form
    caption: str | None
    label: str | None
    classes: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    unread: tuple[str, ...] = field(default=(), compare=False)
    kept: tuple[str, ...] = ()
    condition: str | None = None
    condition_form: Form | None = None

    def describe_columns(self) -> str:
        """Return the columns and their use as text for a message."""
        named = (("captions", self.caption), ("labels", self.label))
        parts = [f"images of column {self.image!r} ({self.form})"]
        parts += [f"{what} of {name!r}" if name is not None else f"no {what}" for what, name in named]
        if self.classes:
            parts.append(f"{len(self.classes)} class names ({summarise_names(self.classes)})")
        if self.attributes:
            parts.append(f"attributes of {summarise_columns(self.attributes)}")
        if self.condition is not None:
            parts.append(f"condition images of {self.condition!r} ({self.condition_form})")
        return ", ".join(parts)


@dataclass
class ParquetPart:
    """A range of row groups of a file, as a part of a source.

    Attributes:
        root, file: folder and name of the file.
        groups: range (start, stop) of the row groups.
        first: number of the first row in the file.
        columns: columns to read.
        images: folder to which paths are relative; the file's own folder if None.
        name, count: see :class:`raysde.data.ingest.samples.SourcePart`.
    """

    root: str
    file: str
    groups: tuple[int, int]
    first: int
    columns: ParquetColumns
    images: str | None
    name: str
    count: int | None

    def read(self) -> Iterator[Sample | Bad]:
        """Yield the rows in order; after damage, each remaining row of the row group is a :class:`Bad`.

        Raises:
            OSError: naming file and row group, if a remote file system fails; another attempt may succeed.
        """
        system, folder = open_root(self.root)
        reader = (
            FileReader(self.root, str(PurePosixPath(self.file).parent))
            if self.images is None
            else FileReader(self.images)
        )
        row = self.first
        with system.open_input_file(f"{folder}/{self.file}") as source:
            table = pq.ParquetFile(source, page_checksum_verification=True)
            for group in range(*self.groups):
                stop = row + table.metadata.row_group(group).num_rows
                for batch in self._batches(table, group, isinstance(system, pafs.LocalFileSystem)):
                    if isinstance(batch, str):
                        yield from (Bad(f"{self.file}#{lost}", batch) for lost in range(row, stop))
                        break
                    for index in range(batch.num_rows):
                        yield self._sample(batch, index, row + index, reader)
                    row += batch.num_rows
                row = stop

    def _batches(self, table: pq.ParquetFile, group: int, local: bool) -> Iterator[pa.RecordBatch | str]:
        """Yield batches of a row group; if it is damaged, those before the damage and then an error sentence."""
        columns = self.columns
        read = [columns.image, columns.caption, columns.label, columns.condition, *columns.attributes]
        names = list(dict.fromkeys([*(name for name in read if name is not None), *self.columns.kept]))
        try:
            yield from table.iter_batches(BATCH, row_groups=[group], columns=names)
        except (pa.ArrowException, OSError) as error:
            reason = f"{self.file}, row group {group} cannot be read: {error}"
            if isinstance(error, OSError) and not local:
                raise OSError(reason) from error
            yield reason

    def _sample(self, batch: pa.RecordBatch, index: int, row: int, reader: FileReader) -> Sample | Bad:
        key = f"{self.file}#{row}"
        try:
            image = _read_image(batch.column(self.columns.image)[index].as_py(), self.columns.form, reader)
            caption = self.columns.caption and batch.column(self.columns.caption)[index].as_py()
            label = self.columns.label and batch.column(self.columns.label)[index].as_py()
            wanted = {*self.columns.attributes, *self.columns.kept}
            values = {name: batch.column(name)[index].as_py() for name in wanted}
            numbers = tuple(parse_attribute(name, values[name]) for name in self.columns.attributes)
            kept = {column_identifier(name): plain_value(values[name], name) for name in self.columns.kept}
            second = self._condition(batch, index, reader)
            said = parse_captions(caption), self._label(label)
            return Sample(key, image, *said, attributes=numbers, kept=kept, condition=second)
        except ValueError as error:
            return Bad(key, f"{key}: {error}")

    def _condition(self, batch: pa.RecordBatch, index: int, reader: FileReader) -> bytes | None:
        """Return the file of a row's second image, None if it is null."""
        name, form = self.columns.condition, self.columns.condition_form
        value = None if name is None else batch.column(name)[index].as_py()
        empty = value is None or (form == "struct" and value.get("bytes") is None and value.get("path") is None)
        return None if empty or form is None else _read_image(value, form, reader)

    def _label(self, value: Any) -> str | None:
        classes = self.columns.classes
        if not classes or not isinstance(value, int):
            return parse_label(value)
        if value == -1:  # Hugging Face's mark for no label
            return None
        if not 0 <= value < len(classes):
            raise ValueError(f"label {value} is not below {len(classes)}, the number of class names")
        return classes[value]


def _read_image(value: Any, form: Form, reader: FileReader) -> bytes:
    fields = value if form == "struct" and value is not None else {form: value}
    data, path = fields.get("bytes"), fields.get("path")
    if data is not None:
        return data
    if path is None:
        raise ValueError("the image is null")
    return reader(normalise_path(path))


def open_parquet(listing: Listing, part_rows: int, images: str | None, words: Vocabulary = ANY) -> Contents:
    """Return the rows of a listing's files; a part is a range of row groups of one file.

    Args:
        listing: the files.
        part_rows: approximate number of rows in a part.
        images: folder to which a column of paths is relative; each file's own folder if None.
        words: names of the columns to read.

    Raises:
        ValueError: naming the file, if one is cut short, has no image column, or other columns than the first file.
    """
    parts: list[ParquetPart] = []
    columns: ParquetColumns | None = None
    for file in listing.names(".parquet"):
        metadata, schema = _read_footer(listing, file)
        found = find_columns(schema, file, words)
        if columns is not None and found != columns:
            raise ValueError(
                f"source {listing.given}: {file} is read as {found.describe_columns()}, the files before it as "
                f"{columns.describe_columns()}; give files of one kind, or make their columns equal"
            )
        columns = found
        sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        for start, stop in group_by_size(sizes, part_rows):
            first, count = sum(sizes[:start]), sum(sizes[start:stop])
            name = f"{file}#{first}"
            parts.append(ParquetPart(listing.root, file, (start, stop), first, found, images, name, count))
    rows = sum(part.count or 0 for part in parts)
    if columns is None or not rows:
        raise ValueError(f"source {listing.given} holds no row")
    if images is not None and columns.form == "bytes" and columns.condition_form in (None, "bytes"):
        raise ValueError(
            f"images {images} is given, but column {columns.image!r} holds the images themselves; leave --images out"
        )
    return Contents(parts, rows, tuple(_list_remarks(listing, columns)))


def _read_footer(listing: Listing, file: str) -> tuple[pq.FileMetaData, pa.Schema]:
    system, folder = open_root(listing.root)
    with system.open_input_file(f"{folder}/{file}") as source:
        try:
            table = pq.ParquetFile(source)
            return table.metadata, table.schema_arrow
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{listing.path(file)} is not a whole Parquet file: {error}") from error


def _list_remarks(listing: Listing, columns: ParquetColumns) -> Iterator[str]:
    said = {"captions": columns.caption, "labels": columns.label}
    there = [f"{what} from {name!r}" for what, name in {"images": columns.image, **said}.items() if name is not None]
    missing = [what for what, name in said.items() if name is None]
    if columns.condition is not None:
        there.append(f"condition images from {columns.condition!r}")
    yield f"read {', '.join(there)}" + (f"; there are no {' and no '.join(missing)}" if missing else "")
    if columns.unread:
        yield f"columns {summarise_columns(columns.unread)} are not read"
    yield from split_note(listing.names(".parquet"))


def find_columns(schema: pa.Schema, file: str, words: Vocabulary = ANY) -> ParquetColumns:
    """Return the columns of images, captions and labels.

    Raises:
        ValueError: naming the file and its columns, if there is no image column, a selected column is absent or has
            another type, two columns have one name, or two columns hold captions or labels.
    """
    twice = next((name for name in schema.names if schema.names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{file} has the column {twice!r} twice; rename or remove one of the two")
    words.require(schema.names, file)
    types = {name: _plain_type(schema.field(name).type) for name in schema.names}
    condition, condition_form = _find_condition(types, file, words)
    whole, types = types, {name: kind for name, kind in types.items() if name != condition}
    features = _read_features(schema, file)
    try:
        image = _find_image_column(types, features, words)
        others = {name: kind for name, kind in types.items() if name != image}
        caption = _choose_one(
            find_spellings([name for name, kind in others.items() if _is_text(kind)], words.captions), "caption"
        )
        label = _choose_one(
            find_spellings([name for name, kind in others.items() if _is_label(kind)], words.labels), "label"
        )
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    form = _image_form(types[image]) if image is not None else None
    if image is None or form is None:
        columns = ", ".join(f"{name}: {kind}" for name, kind in whole.items())
        raise ValueError(f"{file} has no column of images ({', '.join(IMAGE_COLUMNS)}); its columns are {columns}")
    attributes = _find_attributes(types, file, words)
    words.require_kept([name for name in others if _is_plain(types[name])], file)
    kept = tuple(name for name in others if column_identifier(name) in words.keep)
    if len(kept) > len(words.keep):
        raise ValueError(f"{file}: several of the columns {summarise_columns(kept)} have one name; rename one")
    used = (image, caption, label, *attributes, *kept)
    unread = tuple(_describe_unread(name, kind, words) for name, kind in types.items() if name not in used)
    for chosen, found in ((words.caption, caption), (words.label, label)):
        if chosen is not None and found is None:
            said = summarise_columns(unread)
            raise ValueError(
                f"{file}: column {chosen!r} has a type that is not read; choose another, or mend it: {said}"
            )
    classes = features.get(label, {}).get("names") if label is not None else None
    names = tuple(map(str, classes or ()))
    return ParquetColumns(
        image, form, caption, label, names, attributes, unread, kept, condition, condition_form
    )  # fmt: skip


def _find_condition(types: dict[str, pa.DataType], file: str, words: Vocabulary) -> tuple[str | None, Form | None]:
    """Return the column of second images and its form, None without a name of them.

    Raises:
        ValueError: naming the file, if there is no such column, or it holds neither images nor paths.
    """
    if words.condition is None:
        return None, None
    try:
        name = next(iter(find_spellings(types, (words.condition,)).values()), None)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    if name is None:
        raise ValueError(
            f"{file} has no column {words.condition!r}, which --condition-image asks for; it has "
            f"{summarise_columns(types)}"
        )
    form = _image_form(types[name])
    if form is None:
        raise ValueError(
            f"{file}: column {name!r}, which --condition-image asks for, is {types[name]}, neither images nor paths"
        )
    return name, form


def _find_attributes(types: dict[str, pa.DataType], file: str, words: Vocabulary) -> tuple[str, ...]:
    """Return the columns of the numeric attributes.

    Raises:
        ValueError: naming the file and the column whose type is no number.
    """
    spelled = find_spellings(types, words.attributes)
    for name in spelled.values():
        if not (pat.is_integer(types[name]) or pat.is_floating(types[name]) or pat.is_decimal(types[name])):
            raise ValueError(f"{file}: column {name!r}, which --attributes asks for, is {types[name]}, not of numbers")
    return tuple(spelled[name] for name in words.attributes)


def _describe_unread(name: str, kind: pa.DataType, words: Vocabulary) -> str:
    """Return a column's name, with the expected type if it has a name of captions or labels."""
    if normalise_name(name) in words.labels:
        return f"{name} ({kind}, where labels are one word or number in each row)"
    return f"{name} ({kind}, where captions are text)" if words.reads(name) else name


def _find_image_column(
    types: dict[str, pa.DataType], features: dict[str, dict[str, Any]], words: Vocabulary
) -> str | None:
    forms = {name: form for name, kind in types.items() if (form := _image_form(kind)) is not None}
    usual = words.caption is None and words.label is None
    free = [name for name in forms if usual or not words.reads(name)]
    names = find_spellings(free, IMAGE_COLUMNS)
    declared = [name for name, feature in features.items() if feature.get("_type") == "Image"]
    structs = [name for name, form in forms.items() if form == "struct"]
    return next((name for name in [*names.values(), *declared, *structs] if name in forms), None)


def _choose_one(found: dict[str, str], what: str) -> str | None:
    """Return the only column in ``found``, columns under names with the same meaning; None if it is empty.

    Raises:
        ValueError: if there are two.
    """
    names = list(found.values())
    if len(names) > 1:
        raise ValueError(f"columns {names[0]!r} and {names[1]!r} may both be the {what}; --{what}-column names the one")
    return names[0] if names else None


def _read_features(schema: pa.Schema, file: str) -> dict[str, dict[str, Any]]:
    """Return the columns' features from the metadata that Hugging Face's datasets writes into the schema."""
    written = (schema.metadata or {}).get(b"huggingface")
    if written is None:
        return {}
    try:
        features = json.loads(written)["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: the schema's huggingface metadata cannot be read: {error!r}") from error


def _plain_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pat.is_dictionary(kind) else kind


def _is_string(kind: pa.DataType) -> bool:
    return pat.is_string(kind) or pat.is_large_string(kind) or pat.is_string_view(kind)


def _image_form(kind: pa.DataType) -> Literal["bytes", "struct", "path"] | None:
    if pat.is_struct(kind) and {"bytes", "path"} <= {kind.field(number).name for number in range(kind.num_fields)}:
        return "struct"
    if pat.is_binary(kind) or pat.is_large_binary(kind) or pat.is_binary_view(kind):
        return "bytes"
    return "path" if _is_string(kind) else None


def _is_text(kind: pa.DataType) -> bool:
    is_list = pat.is_list(kind) or pat.is_large_list(kind)
    return _is_string(_plain_type(kind.value_type) if is_list else kind)


def _is_plain(kind: pa.DataType) -> bool:
    """Return True if the values of a type can be kept: numbers, truth values, text, dates and times."""
    number = pat.is_integer(kind) or pat.is_floating(kind) or pat.is_decimal(kind) or pat.is_boolean(kind)
    return number or _is_string(kind) or pat.is_date(kind) or pat.is_time(kind) or pat.is_timestamp(kind)


def _is_label(kind: pa.DataType) -> bool:
    return _is_string(kind) or pat.is_integer(kind) or pat.is_floating(kind)
