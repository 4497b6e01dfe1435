"""The data set on disk: its columns, its shards, and the manifest that lists them (docs/data.md).

OUT/manifest.json             columns, sizes, labels, statistics, and the sha256 of shards.arrow; later versions of the
                              data set have manifests of their own, see raysde/data/dataset/versions.py
OUT/shards.arrow              file, rows, bytes, sha256, split, height, width and etag of each shard
OUT/train-00000.parquet       image: {bytes, path}, captions: [string], label, key, width, height, hash
OUT/validation-00000.parquet  rows held out from training
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs

from raysde.data.attributes import Attribute
from raysde.data.condition_column import CONDITION, ConditionColumn
from raysde.data.dataset.kept_columns import KeptColumns
from raysde.data.dataset.layout import Layout
from raysde.data.dataset.shard_table import SPLITS, Shard, Shards, Split, parse_shards
from raysde.data.dataset.versions import choose_version, find_version, versioned_name
from raysde.io.filesystems import absolute_location, child_path, open_filesystem, read_bytes, write_bytes, write_json
from raysde.io.shared_file import open_shared_file

FORMAT = 4
"""Version of the manifest; since 3 each label of a row is a class, and class names are part of the fingerprint; since 4
the shards are columns of a file of their own."""
READ = (2, 3, 4)
SHARDS = "shards.arrow"
"""File with the columns of the shards, beside the manifest."""
MANIFEST = "manifest.json"
INGESTING = ".ingest"
"""Folder beside the shards with the finished parts of an unfinished ingest."""
OPTIONAL: dict[str, Any] = {
    "kept": None,
    "version": 1,
    "parent": "",
    "inherited": (0, 0),
    "attributes": [],
    "condition": None,
}
"""Keys of a manifest that most data sets do without, and their defaults; older versions of raysde know none of them."""
FEATURES = {
    "image": {"_type": "Image"},
    "captions": {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"},
    **{name: {"dtype": "string", "_type": "Value"} for name in ("label", "key", "hash")},
    **{name: {"dtype": "int32", "_type": "Value"} for name in ("width", "height")},
}
SCHEMA = pa.schema(
    [
        pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]), nullable=False),
        pa.field("captions", pa.list_(pa.field("element", pa.string())), nullable=False),
        pa.field("label", pa.string()),
        pa.field("key", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("hash", pa.string(), nullable=False),
    ],
    # Hugging Face's datasets recognises the image column by this entry
    metadata={"huggingface": json.dumps({"info": {"features": FEATURES}})},
)
"""Columns of a shard without numeric attributes and second images."""


def shard_schema(attributes: Sequence[str] = (), *, condition: bool = False) -> pa.Schema:
    """Return the columns of a shard; numeric attributes are the fields of one more, float64, null where unknown.

    Args:
        attributes: names of the numeric attributes.
        condition: True to add the column of second images.
    """
    schema, features = SCHEMA, dict[str, Any](FEATURES)
    if attributes:
        features["attributes"] = {name: {"dtype": "float64", "_type": "Value"} for name in attributes}
        numbers = pa.struct([(name, pa.float64()) for name in attributes])
        schema = schema.append(pa.field("attributes", numbers, nullable=False))
    if condition:
        features[CONDITION] = FEATURES["image"]
        schema = schema.append(SCHEMA.field("image").with_name(CONDITION))
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


@dataclass(frozen=True)
class Manifest:
    """The manifest of a folder of shards.

    Attributes:
        path: path or URI of the folder.
        channels: 1 (grey) or 3 (RGB).
        size: (height, width) of the images; with buckets, of the square bucket; None if sizes differ.
        row_group: number of rows in a full row group.
        shards: in row order, training shards first; other iterables of shards become a :class:`Shards` table.
        labels: class names, ordered by class number.
        captions: number of rows with a caption.
        statistics: counts of labels and captions, moments of pixels, see :mod:`raysde.data.ingest.statistics`.
        source, licence: origin and licence of the images, as given to the ingest.
        skipped: number of samples that were left out; ``report.json`` beside the manifest names them.
        columns: name and type of each Parquet column.
        format: version of the format in which the manifest was written.
        etags_of: URI, without options, of the folder whose object store gave the shards' entity tags; empty if none
            did. A copy elsewhere has other tags.
        attributes: numeric attributes of the rows, with the range of their values.
        kept: columns of the source beside the shards; None if the ingest kept none.
        version: number of the data set's version, see :mod:`raysde.data.dataset.versions`.
        parent: fingerprint of the version before; empty for version 1.
        inherited: number of training and of validation shards of the version before; they come first in each split.
        condition: the second image of every row; None without one.
    """

    path: str
    channels: int
    size: tuple[int, int] | None
    row_group: int
    shards: Shards
    labels: tuple[str, ...] = ()
    captions: int = 0
    statistics: dict[str, Any] = field(default_factory=dict, compare=False)
    source: str = ""
    licence: str = ""
    skipped: int = 0
    columns: dict[str, str] = field(default_factory=lambda: list_columns(SCHEMA), hash=False)
    format: int = FORMAT
    etags_of: str = ""
    attributes: tuple[Attribute, ...] = ()
    kept: KeptColumns | None = None
    version: int = 1
    parent: str = ""
    inherited: tuple[int, int] = (0, 0)
    condition: ConditionColumn | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "shards", Shards.of(self.shards))

    @property
    def rows(self) -> int:
        return int(self.starts[-1])

    def rows_in(self, split: Split) -> int:
        """Return the number of rows of a split."""
        return int(self.shards.rows[self.shards.in_split(split)].sum())

    @property
    def schema(self) -> pa.Schema:
        """Columns of the shards."""
        return shard_schema([each.name for each in self.attributes], condition=self.condition is not None)

    @property
    def bytes(self) -> int:
        """Size of all shards in bytes."""
        return int(self.shards.bytes.sum())

    @property
    def image(self) -> tuple[int, int, int]:
        """Shape (channels, height, width) of the images.

        Raises:
            ValueError: if the images have different sizes.
        """
        if self.size is None:
            raise ValueError(f"the images at {self.path} have different sizes; set data.image_size")
        return (self.channels, *self.size)

    @property
    def classes(self) -> int:
        return len(self.labels)

    @cached_property
    def starts(self) -> np.ndarray:
        """First row number of each shard, and the number of all rows, int64 [shards + 1]."""
        return np.concatenate([[0], np.cumsum(self.shards.rows)])

    @cached_property
    def shapes(self) -> frozenset[tuple[int, int] | None]:
        """(height, width) of each bucket, with None for shards of different sizes."""
        return frozenset(self.shards.buckets()[0])

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the data: 16 hexadecimal digits of a hash over the shards' hashes and the ordered class names.

        A later version's hash covers its parent's fingerprint and the shards that it added, so that fingerprints are a
        chain.
        """
        digest = hashlib.sha256(self.parent.encode())
        for part in [self.shards] if not self.parent else self._added():
            for said in part.hexadecimal():
                digest.update(said.encode())
        if self.format > 2 and self.labels:
            digest.update(json.dumps(self.labels).encode())
        return digest.hexdigest()[:16]

    def _added(self) -> list[Shards]:
        """Return the shards that are not the parent's, split by split."""
        training = int(self.shards.in_split("train").sum())
        first, second = self.inherited[0], training + self.inherited[1]
        return [self.shards[first:training], self.shards[second:]]

    def file(self, number: int) -> str:
        """Return the path or URI of a shard."""
        return child_path(self.path, self.shards.files[number].as_py())

    def layouts(self, split: Split) -> tuple[Layout, ...]:
        """Return a layout of the rows of a split for each bucket of image sizes, sorted by shape."""
        shapes, buckets = self.shards.buckets()
        buckets = np.where(self.shards.in_split(split), buckets, -1)
        chosen = (np.flatnonzero(buckets == bucket) for bucket in range(len(shapes)))
        return tuple(self._layout(numbers) for numbers in chosen if len(numbers))

    def _layout(self, numbers: np.ndarray) -> Layout:
        return Layout(self.starts[numbers], self.shards.rows[numbers], self.row_group)


def list_columns(schema: pa.Schema) -> dict[str, str]:
    """Return name and type of each column as text, as in the manifest."""
    return {field.name: str(field.type) for field in schema}


def write_manifest(manifest: Manifest) -> None:
    """Write ``shards.arrow`` and ``manifest.json``; call it last, so that a folder with a manifest is complete.

    A manifest of an older format is written in that format. The keys ``OPTIONAL`` are left out at their defaults.

    Raises:
        OSError: naming the file, if it cannot be written.
    """
    content: dict[str, Any] = {"format": manifest.format, "rows": manifest.rows}
    content |= {each.name: getattr(manifest, each.name) for each in fields(manifest) if each.name != "path"}
    content["attributes"] = [asdict(each) for each in manifest.attributes]
    content["condition"] = None if manifest.condition is None else asdict(manifest.condition)
    if manifest.format < 4:
        content["shards"] = [_entry(shard) for shard in manifest.shards]
        del content["etags_of"]
    else:
        data, file = manifest.shards.to_bytes(), versioned_name(SHARDS, manifest.version)
        write_bytes(child_path(manifest.path, file), data)
        content["shards"] = {"file": file, "count": len(manifest.shards), "sha256": hashlib.sha256(data).hexdigest()}
    content["kept"] = None if manifest.kept is None else manifest.kept.to_json()
    content = {key: value for key, value in content.items() if key not in OPTIONAL or value != OPTIONAL[key]}
    write_json(child_path(manifest.path, versioned_name(MANIFEST, manifest.version)), content)


def _entry(shard: Shard) -> dict[str, Any]:
    """Return a shard as format 3 lists it."""
    return {name: value for name, value in asdict(shard).items() if name != "etag"}


def read_manifest(path: str, what: str = "the folder", version: int | None = None) -> Manifest:
    """Read the manifest of a data set's version, ``path/manifest.json`` for the first.

    Args:
        what: name of the path in errors, such as the key of a recipe.
        version: number of the version; None for the newest.

    Raises:
        ValueError: if there is no manifest or version, it is damaged, or a newer version of raysde wrote it.
    """
    file = versioned_name(MANIFEST, choose_version(path, version))
    try:
        content = json.loads(read_bytes(child_path(absolute_location(path), file)))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{what} {path!r} holds no {file}; {_suggest_remedy(path)}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}/{file} is not valid JSON: {error}; restore it or ingest again") from None
    try:
        return parse_manifest(path, content)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}/{file} is not a manifest: {error}") from error


def read_same_manifest(path: str, fingerprint: str) -> Manifest:
    """Read the manifest of the version with a fingerprint, which another process opened before.

    Raises:
        ValueError: if no version has it.
    """
    manifest = read_manifest(path, version=find_version(path, fingerprint))
    if manifest.fingerprint != fingerprint:
        raise ValueError(f"the data set at {path} was changed while it was in use; restore it, or start a new run")
    return manifest


def _suggest_remedy(path: str) -> str:
    """Return advice for a path without a manifest, which most often is the source of an ingest and not its output."""
    system, inside = open_filesystem(absolute_location(path))
    about = system.get_file_info(inside)
    if about.type == pafs.FileType.File:
        return f"it is a file, and raysde reads shards: make them with `raysde ingest {path} SHARDS`"
    names = [each.base_name for each in system.get_file_info(pafs.FileSelector(inside, allow_not_found=True))]
    if INGESTING in names:
        return "`raysde ingest` was interrupted there: repeat its command, or remove the folder"
    if not names:
        return f"make one with `raysde ingest SOURCE {path}`"
    more = ", ..." if len(names) > 1 else ""
    return (
        f"it holds other files ({sorted(names)[0]}{more}), and raysde reads shards: make them in a new folder with "
        f"`raysde ingest {path} SHARDS`, and name SHARDS instead"
    )


def parse_manifest(path: str, content: Any) -> Manifest:
    """Return the manifest from its JSON object.

    Raises:
        ValueError: if the format is unknown, or a value is impossible.
        KeyError, TypeError, AttributeError: if the JSON has another structure.
    """
    found = content["format"]
    if type(found) is int and found > FORMAT:
        raise ValueError(f"{path}/manifest.json has format {found}, made by a newer raysde; this one reads {FORMAT}")
    if type(found) is not int or found not in READ:
        raise ValueError(f"{path}/manifest.json has the unknown format {found!r}; ingest again with this version")
    known = {field.name for field in fields(Manifest)} | {"rows"}
    if unknown := sorted(set(content) - known):
        raise ValueError(f"{path}/manifest.json is not a manifest: it has the unknown key {unknown[0]!r}")
    values = {name: value for name, value in content.items() if name not in ("rows", "path")}
    with _name_manifest(path):
        file = versioned_name(SHARDS, _check_version(values))
        values["shards"] = parse_shards(values["shards"]) if found < 4 else _open_shards(path, file, values["shards"])
        values["attributes"] = tuple(Attribute(**each) for each in values.get("attributes", ()))
        second = values.pop("condition", None)
        values["condition"] = None if second is None else ConditionColumn(**second)
    values.update({key: _tuple(values[key]) for key in ("labels", "size", "inherited") if key in values})
    kept = values.pop("kept", None)
    manifest = Manifest(path=path, **values)
    _check_values(manifest)
    if kept is not None:
        with _name_manifest(path):
            rows: dict[Split, int] = {split: manifest.rows_in(split) for split in SPLITS}
            manifest = replace(manifest, kept=KeptColumns.from_json(kept, rows))
    if manifest.rows != content["rows"]:
        raise ValueError(f"{path}/manifest.json counts {content['rows']} rows, its shards {manifest.rows}")
    return manifest


def _check_version(values: dict[str, Any]) -> int:
    """Return the version that a manifest gives for itself, 1 if none."""
    version, parent = values.get("version", 1), values.get("parent", "")
    if type(version) is not int or version < 1 or type(parent) is not str or bool(parent) != (version > 1):
        raise ValueError(f"version {version!r} with the parent {parent!r}")
    return version


@contextmanager
def _name_manifest(path: str) -> Iterator[None]:
    """Name the manifest in a ValueError about its shards."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}/manifest.json is not a manifest: {error}") from error


def _open_shards(path: str, file: str, about: Any) -> Shards:
    """Return the shards of ``file``, ``shards.arrow`` for version 1, memory-mapped.

    Raises:
        ValueError: if the file is missing, or another one than the manifest describes.
    """
    where = child_path(absolute_location(path), file)
    if about["file"] != file or type(about["sha256"]) is not str:
        raise ValueError(f"shards must name {file} and its sha256")
    try:
        shards = Shards.from_buffer(open_shared_file(where, about["sha256"]))
    except FileNotFoundError:
        raise ValueError(f"{file} beside it is missing; restore it or ingest again") from None
    except ValueError as error:
        raise ValueError(f"{file} beside it is damaged: {error}; restore it or ingest again") from error
    if len(shards) != about["count"]:
        raise ValueError(f"it counts {about['count']} shards, {file} {len(shards)}")
    return shards


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _check_values(manifest: Manifest) -> None:
    """Raise ValueError if a value has a wrong type or range, as in a manifest that was edited by hand."""

    def need(holds: bool, what: str) -> None:
        if not holds:
            raise ValueError(f"{manifest.path}/manifest.json is not a manifest: {what}")

    def counts(values: Any, least: int = 0) -> bool:
        return all(type(value) is int and least <= value < 2**62 for value in values)

    def shape(value: Any) -> bool:
        return value is None or (isinstance(value, tuple) and len(value) == 2 and counts(value, 1))

    def strings(values: Any) -> bool:
        return isinstance(values, tuple) and all(type(value) is str for value in values)

    need(
        type(manifest.channels) is int and manifest.channels in (1, 3),
        f"channels must be 1 or 3, not {manifest.channels!r}",
    )
    need(shape(manifest.size), f"size must be two positive numbers, not {manifest.size!r}")
    need(counts([manifest.row_group], 1), f"row_group must be a positive number, not {manifest.row_group!r}")
    need(counts([manifest.captions, manifest.skipped]), "captions and skipped must be counts")
    need(strings(manifest.labels) and len(set(manifest.labels)) == len(manifest.labels), "labels must be names")
    need(strings((manifest.source, manifest.licence)), "source and licence must be strings")
    need(isinstance(manifest.columns, dict) and isinstance(manifest.statistics, dict), "columns must be an object")
    need(isinstance(manifest.etags_of, str), "etags_of must be a string")
    training = int(manifest.shards.in_split("train").sum())
    most = (training, len(manifest.shards) - training)
    taken = manifest.inherited
    fits = (
        isinstance(taken, tuple) and len(taken) == 2 and counts(taken) and taken[0] <= most[0] and taken[1] <= most[1]
    )
    need(fits, f"inherited must be two numbers of shards, not {taken!r}")
