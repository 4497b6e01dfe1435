"""Parquet files that others wrote, with a column of images or of the images' paths.

Columns are found by name, in any case of letters; the first of these that there is counts:

    image     image, jpg, jpeg, png, webp, img, image_bytes, image_path, file_name, file, path;
              else what Hugging Face's metadata declares an Image, else the one column of struct<bytes, path>
    captions  text, caption, captions, prompt
    label     label, class, labels
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pyarrow.types as pat

from raysde.data.samples import Bad, Sample
from raysde.data.sources.descriptions import captions_of, label_of
from raysde.data.sources.listing import Contents, Listing, Reader, inside, reach, runs, split_note

IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "img", "image_bytes", "image_path", "file_name", "file", "path")
TEXT_COLUMNS = ("text", "caption", "captions", "prompt")
LABEL_COLUMNS = ("label", "class", "labels")
BATCH = 64


@dataclass(frozen=True)
class Columns:
    """Which columns are read, what the image column holds, and the names of the classes if the file has them."""

    image: str
    form: Literal["bytes", "struct", "path"]
    caption: str | None
    label: str | None
    classes: tuple[str, ...] = ()


@dataclass
class ParquetPart:
    """Some row groups of a file.

    Attributes:
        root, file: where they are.
        groups: the numbers of the first row group and of the one after the last.
        first: the number of the first row in the file.
        columns: what is read.
        images: the folder that paths are relative to; the file's own if None.
        name, count: see ``Part``.
    """

    root: str
    file: str
    groups: tuple[int, int]
    first: int
    columns: Columns
    images: str | None
    name: str
    count: int | None

    def read(self) -> Iterator[Sample | Bad]:
        """The rows in order; the rest of a row group that is damaged is Bad, row by row.

        Raises:
            OSError: naming file and row group, if a remote file system fails: another attempt may succeed.
        """
        system, folder = reach(self.root)
        reader = Reader(self.root, str(PurePosixPath(self.file).parent)) if self.images is None else Reader(self.images)
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
        """A row group's rows; if it is damaged, those before the damage and then a sentence that says so."""
        read = [self.columns.image, self.columns.caption, self.columns.label]
        names = [name for name in read if name is not None]
        try:
            yield from table.iter_batches(BATCH, row_groups=[group], columns=names)
        except (pa.ArrowException, OSError) as error:
            reason = f"{self.file}, row group {group} cannot be read: {error}"
            if isinstance(error, OSError) and not local:
                raise OSError(reason) from error
            yield reason

    def _sample(self, batch: pa.RecordBatch, index: int, row: int, reader: Reader) -> Sample | Bad:
        key = f"{self.file}#{row}"
        try:
            image = _image(batch.column(self.columns.image)[index].as_py(), self.columns.form, reader)
            caption = self.columns.caption and batch.column(self.columns.caption)[index].as_py()
            label = self.columns.label and batch.column(self.columns.label)[index].as_py()
            return Sample(key, image, captions_of(caption), self._label(label))
        except ValueError as error:
            return Bad(key, f"{key}: {error}")

    def _label(self, value: Any) -> str | None:
        classes = self.columns.classes
        if not classes or not isinstance(value, int):
            return label_of(value)
        if value == -1:  # Hugging Face's mark for no label
            return None
        if not 0 <= value < len(classes):
            raise ValueError(f"label {value} is not below {len(classes)}, the number of class names")
        return classes[value]


def _image(value: Any, form: str, reader: Reader) -> bytes:
    fields = value if form == "struct" and value is not None else {form: value}
    data, path = fields.get("bytes"), fields.get("path")
    if data is not None:
        return data
    if path is None:
        raise ValueError("the image is null")
    return reader(inside(path))


def open_parquet(listing: Listing, part_rows: int, images: str | None) -> Contents:
    """The rows of the listing's files; a part is some row groups of one file.

    Args:
        listing: the files.
        part_rows: rows that a part holds, about.
        images: the folder that a column of paths is relative to; each file's own folder if None.

    Raises:
        ValueError: naming the file, if one is cut short, has no image column, or other columns than the first file.
    """
    parts: list[ParquetPart] = []
    columns: Columns | None = None
    for file in listing.names(".parquet"):
        metadata, schema = _footer(listing, file)
        found = find_columns(schema, file)
        if columns is not None and found != columns:
            raise ValueError(f"source {listing.given}: {file} is read as {found}, the files before it as {columns}")
        columns = found
        sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        for start, stop in runs(sizes, part_rows):
            first, count = sum(sizes[:start]), sum(sizes[start:stop])
            name = f"{file}#{first}"
            parts.append(ParquetPart(listing.root, file, (start, stop), first, found, images, name, count))
    rows = sum(part.count or 0 for part in parts)
    if columns is None or not rows:
        raise ValueError(f"source {listing.given} holds no row")
    if images is not None and columns.form == "bytes":
        raise ValueError(f"images {images} is given, but column {columns.image!r} holds the images themselves")
    return Contents(parts, rows, tuple(_remarks(listing, columns)))


def _footer(listing: Listing, file: str) -> tuple[pq.FileMetaData, pa.Schema]:
    system, folder = reach(listing.root)
    with system.open_input_file(f"{folder}/{file}") as source:
        try:
            table = pq.ParquetFile(source)
            return table.metadata, table.schema_arrow
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{listing.path(file)} is not a whole Parquet file: {error}") from error


def _remarks(listing: Listing, columns: Columns) -> Iterator[str]:
    said = {"captions": columns.caption, "labels": columns.label}
    there = [f"{what} from {name!r}" for what, name in {"images": columns.image, **said}.items() if name is not None]
    missing = [what for what, name in said.items() if name is None]
    yield f"read {', '.join(there)}" + (f"; there are no {' and no '.join(missing)}" if missing else "")
    yield from split_note(listing.names(".parquet"))


def find_columns(schema: pa.Schema, file: str) -> Columns:
    """The columns that hold images, captions and labels.

    Raises:
        ValueError: naming the file and its columns, if there is no image column.
    """
    names = {name.lower(): name for name in schema.names} | {name: name for name in schema.names}
    types = {name: _plain(schema.field(name).type) for name in schema.names}
    features = _features(schema, file)
    forms = {name: _form(kind) for name, kind in types.items()}
    declared = [name for name, feature in features.items() if feature.get("_type") == "Image"]
    structs = [name for name, form in forms.items() if form == "struct"]
    wanted = [names[name] for name in IMAGE_COLUMNS if name in names] + declared + structs
    image = next((name for name in wanted if forms.get(name) is not None), None)
    form = forms.get(image or "")
    if image is None or form is None:
        columns = ", ".join(f"{name}: {kind}" for name, kind in types.items())
        raise ValueError(f"{file} has no column of images ({', '.join(IMAGE_COLUMNS)}); its columns are {columns}")
    others = {lower: name for lower, name in names.items() if name != image}
    caption = next((others[name] for name in TEXT_COLUMNS if name in others and _is_text(types[others[name]])), None)
    label = next((others[name] for name in LABEL_COLUMNS if name in others and _is_label(types[others[name]])), None)
    classes = features.get(label, {}).get("names") if label is not None else None
    return Columns(image, form, caption, label, tuple(map(str, classes or ())))


def _features(schema: pa.Schema, file: str) -> dict[str, dict[str, Any]]:
    """The columns' types as Hugging Face's datasets writes them into the schema."""
    written = (schema.metadata or {}).get(b"huggingface")
    if written is None:
        return {}
    try:
        features = json.loads(written)["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: the schema's huggingface metadata cannot be read: {error!r}") from error


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pat.is_dictionary(kind) else kind


def _is_string(kind: pa.DataType) -> bool:
    return pat.is_string(kind) or pat.is_large_string(kind) or pat.is_string_view(kind)


def _form(kind: pa.DataType) -> Literal["bytes", "struct", "path"] | None:
    if pat.is_struct(kind) and {"bytes", "path"} <= {kind.field(number).name for number in range(kind.num_fields)}:
        return "struct"
    if pat.is_binary(kind) or pat.is_large_binary(kind) or pat.is_binary_view(kind):
        return "bytes"
    return "path" if _is_string(kind) else None


def _is_text(kind: pa.DataType) -> bool:
    is_list = pat.is_list(kind) or pat.is_large_list(kind)
    return _is_string(_plain(kind.value_type) if is_list else kind)


def _is_label(kind: pa.DataType) -> bool:
    return _is_string(kind) or pat.is_integer(kind) or pat.is_floating(kind)
