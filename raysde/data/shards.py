"""The data set on disk: Parquet shards of uint8 images with captions and labels, and a manifest that describes them.

The folder may be local or anything pyarrow's file systems reach (s3://, gs://).

    OUT/manifest.json       schema, image shape and encoding, counts, and for each shard its rows, bytes and sha256
    OUT/shard-00000.parquet image: binary, caption: string, label: int32, name: string
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

Encoding = Literal["raw", "png"]
SCHEMA = pa.schema(
    [
        pa.field("image", pa.binary(), nullable=False),
        pa.field("caption", pa.string()),
        pa.field("label", pa.int32()),
        pa.field("name", pa.string(), nullable=False),
    ]
)
ROW_GROUP = 1024
FORMAT = 1


@dataclass(frozen=True)
class Shard:
    """One Parquet file."""

    file: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a folder of shards holds.

    Attributes:
        path: the folder.
        image: shape (channels, height, width).
        encoding: "raw" (uint8 in C, H, W order) or "png".
        shards: in row order.
        captions: rows that have a caption.
        classes: number of classes, 0 without labels.
        columns: name and type of each Parquet column.
        skipped: source files that were left out because they could not be read.
    """

    path: str
    image: tuple[int, int, int]
    encoding: Encoding
    shards: tuple[Shard, ...]
    captions: int
    classes: int
    columns: dict[str, str] = field(hash=False)
    skipped: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @property
    def fingerprint(self) -> str:
        """A hash of the shards' hashes: the identity of the data."""
        return hashlib.sha256("".join(shard.sha256 for shard in self.shards).encode()).hexdigest()[:16]


def columns(schema: pa.Schema) -> dict[str, str]:
    """Name and type of each column, as the manifest keeps them."""
    return {field.name: str(field.type) for field in schema}


def filesystem(path: str) -> tuple[pafs.FileSystem, str]:
    """The file system and the path inside it, of a local path or a URI."""
    if "://" in path:
        return pafs.FileSystem.from_uri(path)
    return pafs.LocalFileSystem(), str(Path(path).expanduser().absolute())


def write_manifest(manifest: Manifest) -> None:
    """Writes ``manifest.json`` last, so that a folder with a manifest is whole."""
    system, folder = filesystem(manifest.path)
    content = {"format": FORMAT, "rows": manifest.rows, **asdict(manifest)}
    del content["path"]
    with system.open_output_stream(f"{folder}/manifest.json") as out:
        out.write((json.dumps(content, indent=1) + "\n").encode())


def read_manifest(path: str) -> Manifest:
    """Reads ``path/manifest.json``.

    Raises:
        ValueError: if there is none or it is not one.
    """
    system, folder = filesystem(path)
    try:
        with system.open_input_stream(f"{folder}/manifest.json") as source:
            content = json.loads(source.read())
    except FileNotFoundError:
        raise ValueError(
            f"data.path {path!r} holds no manifest.json; make one with `raysde ingest SOURCE {path}`"
        ) from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}/manifest.json is not valid JSON: {error}") from error
    try:
        if content.pop("format") != FORMAT:
            raise ValueError(f"{path}/manifest.json has an unknown format; this version reads format {FORMAT}")
        rows = content.pop("rows")
        shards = tuple(Shard(**shard) for shard in content.pop("shards"))
        image = tuple(content.pop("image"))
        skipped = tuple(content.pop("skipped"))
        manifest = Manifest(path=path, image=image, shards=shards, skipped=skipped, **content)  # type: ignore[arg-type]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}/manifest.json is not a manifest: {error}") from error
    if manifest.rows != rows:
        raise ValueError(f"{path}/manifest.json counts {rows} rows, its shards {manifest.rows}")
    return manifest


def sha256_of(system: pafs.FileSystem, path: str) -> str:
    """The hash of a file's content."""
    digest = hashlib.sha256()
    with system.open_input_stream(path) as source:
        while chunk := source.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def verify(manifest: Manifest, *, hashes: bool) -> None:
    """Compares the shards with the manifest: presence, size and schema, and the content's hash if asked.

    Raises:
        ValueError: naming the first shard that differs and how.
    """
    if manifest.columns != columns(SCHEMA):
        raise ValueError(f"{manifest.path}/manifest.json lists columns {manifest.columns}, expected {columns(SCHEMA)}")
    system, folder = filesystem(manifest.path)
    for shard in manifest.shards:
        path = f"{folder}/{shard.file}"
        info = system.get_file_info(path)
        if info.type != pafs.FileType.File:
            raise ValueError(f"shard {shard.file} of {manifest.path} is missing")
        if hashes and (found := sha256_of(system, path)) != shard.sha256:
            raise ValueError(
                f"shard {shard.file} of {manifest.path} has sha256 {found[:12]}..., "
                f"its manifest says {shard.sha256[:12]}..."
            )
        if info.size != shard.bytes:
            raise ValueError(
                f"shard {shard.file} of {manifest.path} has {info.size} bytes, its manifest says {shard.bytes}"
            )
        with system.open_input_file(path) as source:
            metadata = pq.ParquetFile(source)
            if columns(metadata.schema_arrow) != manifest.columns or metadata.metadata.num_rows != shard.rows:
                raise ValueError(f"shard {shard.file} of {manifest.path} does not have the manifest's columns and rows")


def write_shard(table: pa.Table, path: str, file: str) -> Shard:
    """Writes one shard of ``SCHEMA`` and returns its entry for the manifest."""
    system, folder = filesystem(path)
    target = f"{folder}/{file}"
    pq.write_table(table.cast(SCHEMA), target, filesystem=system, row_group_size=ROW_GROUP, compression="zstd")
    return Shard(file, table.num_rows, system.get_file_info(target).size, sha256_of(system, target))


def distinct_captions(manifest: Manifest, limit: int) -> list[str]:
    """Up to ``limit`` different captions, sorted, for training a tokenizer."""
    system, folder = filesystem(manifest.path)
    found: set[str] = set()
    for shard in manifest.shards:
        with system.open_input_file(f"{folder}/{shard.file}") as source:
            column = pq.read_table(source, columns=["caption"]).column("caption")
        found.update(caption for caption in column.unique().to_pylist() if caption)
        if len(found) >= limit:
            break
    return sorted(found)[:limit]


def offsets(shards: Sequence[Shard]) -> list[int]:
    """The first row number of each shard, and the total."""
    result = [0]
    for shard in shards:
        result.append(result[-1] + shard.rows)
    return result
