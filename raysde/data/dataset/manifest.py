"""The data set on disk: its columns, its shards, and the manifest that lists them (docs/data.md).

OUT/manifest.json             columns, sizes, labels, statistics, and for each shard its rows, bytes and sha256
OUT/train-00000.parquet       image: {bytes, path}, captions: [string], label, key, width, height, hash
OUT/validation-00000.parquet  rows held out from training
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any, Literal

import pyarrow as pa
import pyarrow.fs as pafs

from raysde.data.dataset.layout import Layout
from raysde.io.filesystems import absolute_location, child_path, open_filesystem, read_bytes, write_json

Split = Literal["train", "validation"]
FORMAT = 3
"""Version of the manifest; since 3 each label of a row is a class, and class names are part of the fingerprint."""
READ = (2, 3)
INGESTING = ".ingest"
"""Folder beside the shards with the finished parts of an unfinished ingest."""
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


@dataclass(frozen=True)
class Shard:
    """Manifest entry of one Parquet file.

    Attributes:
        file: name of the file in the data set's folder.
        rows, bytes: number of its rows, and its size in bytes.
        sha256: hash of the file in hexadecimal.
        split: train or validation, for all its rows.
        image: (height, width) of all its images in pixels; None if they differ.
    """

    file: str
    rows: int
    bytes: int
    sha256: str
    split: Split = "train"
    image: tuple[int, int] | None = None


@dataclass(frozen=True)
class Manifest:
    """The manifest of a folder of shards.

    Attributes:
        path: path or URI of the folder.
        channels: 1 (grey) or 3 (RGB).
        size: (height, width) of the images; with buckets, of the square bucket; None if sizes differ.
        row_group: number of rows in a full row group.
        shards: in row order, training shards first.
        labels: class names, ordered by class number.
        captions: number of rows with a caption.
        statistics: counts of labels and captions, moments of pixels, see :mod:`raysde.data.ingest.statistics`.
        source, licence: origin and licence of the images, as given to the ingest.
        skipped: number of samples that were left out; ``report.json`` beside the manifest names them.
        columns: name and type of each Parquet column.
        format: version of the format in which the manifest was written.
    """

    path: str
    channels: int
    size: tuple[int, int] | None
    row_group: int
    shards: tuple[Shard, ...]
    labels: tuple[str, ...] = ()
    captions: int = 0
    statistics: dict[str, Any] = field(default_factory=dict, compare=False)
    source: str = ""
    licence: str = ""
    skipped: int = 0
    columns: dict[str, str] = field(default_factory=lambda: list_columns(SCHEMA), hash=False)
    format: int = FORMAT

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    def rows_in(self, split: Split) -> int:
        """Return the number of rows of a split."""
        return sum(shard.rows for shard in self.shards if shard.split == split)

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
    def starts(self) -> list[int]:
        """First row number of each shard, and the number of all rows."""
        result = [0]
        for shard in self.shards:
            result.append(result[-1] + shard.rows)
        return result

    @cached_property
    def shapes(self) -> frozenset[tuple[int, int] | None]:
        """(height, width) of each bucket, with None for shards of different sizes."""
        return frozenset(shard.image for shard in self.shards)

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the data: 16 hexadecimal digits of a hash over the shards' hashes and the ordered class names."""
        said = "".join(shard.sha256 for shard in self.shards)
        if self.format > 2 and self.labels:
            said += json.dumps(self.labels)
        return hashlib.sha256(said.encode()).hexdigest()[:16]

    def file(self, number: int) -> str:
        """Return the path or URI of a shard."""
        return child_path(self.path, self.shards[number].file)

    def layouts(self, split: Split) -> tuple[Layout, ...]:
        """Return a layout of the rows of a split for each bucket of image sizes, sorted by shape."""
        chosen = [number for number, shard in enumerate(self.shards) if shard.split == split]
        buckets = sorted({self.shards[number].image or (0, 0) for number in chosen})
        return tuple(self._layout([n for n in chosen if (self.shards[n].image or (0, 0)) == b]) for b in buckets)

    def _layout(self, numbers: list[int]) -> Layout:
        return Layout([self.starts[n] for n in numbers], [self.shards[n].rows for n in numbers], self.row_group)


def list_columns(schema: pa.Schema) -> dict[str, str]:
    """Return name and type of each column as text, as in the manifest."""
    return {field.name: str(field.type) for field in schema}


def write_manifest(manifest: Manifest) -> None:
    """Write ``manifest.json``; call it last, so that a folder with a manifest is complete."""
    content = {"format": manifest.format, "rows": manifest.rows, **asdict(manifest)}
    del content["path"]
    write_json(child_path(manifest.path, "manifest.json"), content)


def read_manifest(path: str, what: str = "the folder") -> Manifest:
    """Read ``path/manifest.json``.

    Args:
        what: name of the path in errors, such as the key of a recipe.

    Raises:
        ValueError: if there is no manifest, it is damaged, or a newer version of raysde wrote it.
    """
    try:
        content = json.loads(read_bytes(child_path(absolute_location(path), "manifest.json")))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{what} {path!r} holds no manifest.json; {_suggest_remedy(path)}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}/manifest.json is not valid JSON: {error}") from None
    try:
        return parse_manifest(path, content)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}/manifest.json is not a manifest: {error}") from error


def _suggest_remedy(path: str) -> str:
    """Return advice for a path without a manifest, which most often is the source of an ingest and not its output."""
    system, inside = open_filesystem(absolute_location(path))
    about = system.get_file_info(inside)
    if about.type == pafs.FileType.File:
        return f"it is a file, and training reads shards: make them with `raysde ingest {path} SHARDS`"
    names = [each.base_name for each in system.get_file_info(pafs.FileSelector(inside, allow_not_found=True))]
    if INGESTING in names:
        return "`raysde ingest` was interrupted there: repeat its command, or remove the folder"
    if not names:
        return f"make one with `raysde ingest SOURCE {path}`"
    more = ", ..." if len(names) > 1 else ""
    return (
        f"it holds other files ({sorted(names)[0]}{more}), and training reads shards: make them in a new folder with "
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
    shards = tuple(Shard(**{**shard, "image": _tuple(shard["image"])}) for shard in values["shards"])
    values.update(shards=shards, labels=_tuple(values["labels"]), size=_tuple(values["size"]))
    manifest = Manifest(path=path, **values)
    _check_values(manifest)
    if manifest.rows != content["rows"]:
        raise ValueError(f"{path}/manifest.json counts {content['rows']} rows, its shards {manifest.rows}")
    return manifest


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
    for shard in manifest.shards:
        named = type(shard.file) is str and shard.file.isprintable() and not {"/", "\\"} & set(shard.file)
        need(named, f"shard file {shard.file!r}")
        hashed = type(shard.sha256) is str and re.fullmatch("[0-9a-f]{64}", shard.sha256) is not None
        need(hashed and counts([shard.rows, shard.bytes]), f"shard {shard.file}: rows, bytes, sha256")
        need(shard.split in ("train", "validation"), f"shard {shard.file}: split {shard.split!r}")
        need(shape(shard.image), f"shard {shard.file}: image {shard.image!r}")
    need(counts([manifest.rows]), "its shards have too many rows")
