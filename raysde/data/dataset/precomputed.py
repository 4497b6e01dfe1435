"""Precomputed text embeddings and latents of a data set, in folders beside its shards (docs/data.md).

SHARDS/text-ID/manifest.json           the encoder, the data set's fingerprint, each file's rows, bytes and sha256
SHARDS/text-ID/train-00000.parquet     text: [binary], one for each caption; rows and row groups as in the shard
SHARDS/text-ID/empty.bin               the embedding of the empty caption, which replaces dropped captions
SHARDS/latents-ID/train-00000.parquet  moments: binary, mean and log-variance of the latent of each view of the image

Each binary holds raw little-endian numbers: [tokens, width] of tokens that are no padding, or [V, 2 C, height, width].
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from pydantic import Field, TypeAdapter, ValidationError

from raysde.data.dataset.manifest import Manifest
from raysde.data.dataset.view import STILL, View, draw_uniforms
from raysde.io.errors import name_place_of_write
from raysde.io.filesystems import (
    child_path,
    exists,
    open_filesystem,
    read_bytes,
    sha256_of,
    write_bytes,
    write_json,
)
from raysde.io.invalid import first_mistake

FORMAT = 1
EMPTY = "empty.bin"
PrecomputedKind = Literal["text", "latents"]
Dtype = Literal["fp16", "fp32"]
NUMBERS: dict[Dtype, np.dtype] = {"fp16": np.dtype("<f2"), "fp32": np.dtype("<f4")}
COLUMN: dict[PrecomputedKind, pa.Field] = {
    "text": pa.field("text", pa.list_(pa.field("element", pa.large_binary())), nullable=False),
    "latents": pa.field("moments", pa.large_binary(), nullable=False),
}


@dataclass(frozen=True)
class PrecomputedFile:
    """One file of a folder; a Parquet file has the rows of the shard of the same name.

    Attributes:
        rows, bytes: number of its rows, and its size in bytes.
        sha256: hash of the file in hexadecimal.
    """

    file: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class TextEmbeddings:
    """Manifest of a folder with a text encoder's last hidden states for all captions.

    Attributes:
        path: path or URI of the folder.
        encoder: path or name of the encoder.
        sha256: hash of the encoder's configuration, weights and tokenizer.
        width: length of a token's vector.
        max_tokens: number of tokens to which captions were cut.
        dtype: number type of the stored vectors.
        fingerprint: fingerprint of the data set.
        files: one file for each shard, in the order of the shards.
        empty: file with the embedding of the empty caption.
    """

    kind: Literal["text"] = "text"
    path: str
    encoder: str
    sha256: str
    width: int
    max_tokens: int
    dtype: Dtype
    fingerprint: str
    files: tuple[PrecomputedFile, ...]
    empty: PrecomputedFile

    @property
    def name(self) -> str:
        """Name of the folder."""
        return folder_name(self.path)

    @property
    def all_files(self) -> tuple[PrecomputedFile, ...]:
        return (*self.files, self.empty)


@dataclass(frozen=True, kw_only=True)
class LatentViews:
    """Views of each image that are encoded: the whole image and random crops of it, and the mirror image of each.

    Attributes:
        flip: True to add the mirror image of each view.
        crops: number of random crops of an image, beside the whole image.
        scale: smallest and largest side of a crop as a fraction of the whole image; its area is uniform in between.

    Raises:
        ValueError: if there are crops and ``scale`` gives only whole images, or is no range of fractions.
    """

    flip: bool = False
    crops: int = 0
    scale: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        low, high = self.scale
        if not 0.0 < low <= high <= 1.0:
            raise ValueError(f"scale must be (low, high) with 0 < low <= high <= 1, got {list(self.scale)}")
        if self.crops < 0:
            raise ValueError(f"crops must be at least 0, got {self.crops}")
        if bool(self.crops) != (low < 1.0):
            raise ValueError(
                f"crops={self.crops} and scale={list(self.scale)}: crops need a scale below 1, such as 0.8 to 1, and a "
                "scale needs crops"
            )

    @property
    def count(self) -> int:
        """Number of views of an image; view 0 is the whole image, and view 2 k + 1 the mirror image of view 2 k."""
        return (1 + self.crops) * (1 + self.flip)

    def choose(self, draw: float) -> int:
        """Return the number of the view that a draw in [0, 1) selects."""
        return int(draw * self.count)

    def cut(self, row: int, crop: int) -> tuple[View, np.ndarray]:
        """Return the crop settings and the uniform numbers [4] of a crop of a row; 0 is the whole image.

        They depend on the row's number in its data set alone.
        """
        return (View(crop="random", scale=self.scale), draw_uniforms(0, row, crop, 1)[0]) if crop else (View(), STILL)


WHOLE = LatentViews()
"""The whole image alone."""


@dataclass(frozen=True, kw_only=True)
class Latents:
    """Manifest of a folder with an autoencoder's posterior means and log-variances for all images.

    Attributes:
        path, encoder, sha256, dtype, fingerprint, files: see :class:`TextEmbeddings`.
        scaling_factor, shift_factor: training uses ``(z - shift_factor) * scaling_factor`` of a latent z.
        shape: (channels, height, width) of a latent.
        pixels: (channels, height, width) of an image.
        views: views of each image.
    """

    kind: Literal["latents"] = "latents"
    path: str
    encoder: str
    sha256: str
    scaling_factor: float
    shift_factor: float
    shape: tuple[int, int, int]
    pixels: tuple[int, int, int]
    dtype: Dtype
    fingerprint: str
    files: tuple[PrecomputedFile, ...]
    views: LatentViews = WHOLE

    @property
    def name(self) -> str:
        """Name of the folder."""
        return folder_name(self.path)

    @property
    def all_files(self) -> tuple[PrecomputedFile, ...]:
        return self.files


def folder_name(path: str) -> str:
    """Return the last part of a path, or of a URI without its options."""
    return (path.partition("?")[0] if "://" in path else path).rpartition("/")[2]


Derived = TextEmbeddings | Latents
ADAPTER: TypeAdapter[Derived] = TypeAdapter(Annotated[Derived, Field(discriminator="kind")])


def hash_identity(sha256: str, *settings: object) -> str:
    """Return the ID for a folder's name: 12 hexadecimal digits of a hash over the encoder's hash and the settings."""
    return hashlib.sha256(json.dumps([sha256, *settings]).encode()).hexdigest()[:12]


def hash_contents(derived: Derived) -> str:
    """Return the hash of a folder's encoder and files: 16 hexadecimal digits."""
    said = "".join([derived.sha256, derived.fingerprint, *(file.sha256 for file in derived.all_files)])
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def derived_folder(kind: PrecomputedKind, shards: str, identity: str) -> str:
    """Return the path or URI of the precomputed folder with an ID, inside the folder ``shards``."""
    return child_path(shards, f"{kind}-{identity}")


def write_derived(derived: Derived) -> None:
    """Write a folder's manifest; call it last, so that a folder with a manifest is complete."""
    content = {"format": FORMAT, **asdict(derived)}
    del content["path"]
    write_json(child_path(derived.path, "manifest.json"), content)


def read_derived(path: str) -> Derived:
    """Read the manifest of a folder.

    Raises:
        ValueError: naming the file, if it is damaged or of another format.
    """
    where = child_path(path, "manifest.json")
    try:
        content = json.loads(read_bytes(where))
        if content["format"] != FORMAT:
            raise ValueError(f"it has format {content['format']!r}, this version reads {FORMAT}; precompute it again")
        del content["format"]
        return ADAPTER.validate_python({**content, "path": path})
    except ValidationError as error:
        key, said = first_mistake(error)
        raise ValueError(f"{where} is not a manifest at {key}: {said}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{where} is not a manifest: {error}") from error


def find_derived(kind: PrecomputedKind, shards: str) -> list[Derived]:
    """Return the complete folders of a kind beside the shards, by name; folders without a manifest are ignored.

    Raises:
        ValueError: naming the manifest that is damaged or of another format.
    """
    system, inside = open_filesystem(shards)
    listed = system.get_file_info(pafs.FileSelector(inside, allow_not_found=True))
    names = sorted(
        info.base_name
        for info in listed
        if info.type == pafs.FileType.Directory and info.base_name.startswith(f"{kind}-")
    )
    paths = [child_path(shards, name) for name in names]
    return [read_derived(path) for path in paths if exists(child_path(path, "manifest.json"))]


def verify_derived(derived: Derived, manifest: Manifest, *, hashes: bool) -> None:
    """Check a folder's files and their sizes against its manifest and the shards, and with ``hashes`` their sha256.

    Raises:
        ValueError: naming the first file that differs.
    """
    check_derived_list(derived, manifest)
    for file in derived.all_files:
        verify_file(derived, file, hashes=hashes)


def verify_file(derived: Derived, file: PrecomputedFile, *, hashes: bool) -> None:
    """Check one file of a precomputed folder, as :func:`verify_derived` does.

    Raises:
        ValueError: naming the file, if it differs from the manifest.
    """
    where = child_path(derived.path, file.file)
    system, inside = open_filesystem(where)
    info = system.get_file_info(inside)
    if info.type != pafs.FileType.File:
        raise ValueError(f"{where} is missing; remove the folder and run raysde precompute again")
    if info.size != file.bytes or (hashes and sha256_of(where) != file.sha256):
        raise ValueError(
            f"{where} is not the file that its manifest describes; remove the folder and run raysde precompute again"
        )


def check_derived_list(derived: Derived, manifest: Manifest) -> None:
    """Check that a precomputed folder lists a file for each shard, with the shard's rows.

    Raises:
        ValueError: if it does not.
    """
    found = [(file.file, file.rows) for file in derived.files]
    if found != list(zip(manifest.shards.files.to_pylist(), manifest.shards.rows.tolist(), strict=True)):
        raise ValueError(
            f"{derived.path}/manifest.json does not list the files and rows of the shards beside it; "
            "remove the folder and run raysde precompute again"
        )


def write_column(path: str, kind: PrecomputedKind, name: str, groups: Iterable[list[Any]]) -> PrecomputedFile:
    """Write the precomputed Parquet file of a shard; the same values give the same bytes.

    Args:
        groups: values of each row group: bytes for each row, or a list of bytes for each row's captions.

    Raises:
        OSError: naming the file, if it cannot be written.
    """
    schema, rows = pa.schema([COLUMN[kind]]), 0
    system, inside = open_filesystem(child_path(path, name))
    with (
        name_place_of_write(f"file {name}", path),
        system.open_output_stream(inside) as out,
        pq.ParquetWriter(
            out, schema, compression="none", use_dictionary=False, write_page_checksum=True, write_statistics=False
        ) as writer,
    ):
        for values in groups:
            table = pa.table([pa.array(values, COLUMN[kind].type)], schema=schema)
            writer.write_table(table, row_group_size=len(values))
            rows += len(values)
    return describe_file(path, name, rows)


def write_empty(path: str, content: bytes) -> PrecomputedFile:
    """Write the embedding of the empty caption as raw bytes.

    Raises:
        OSError: naming the file, if it cannot be written.
    """
    write_bytes(child_path(path, EMPTY), content)
    return describe_file(path, EMPTY, 1)


def describe_file(path: str, name: str, rows: int) -> PrecomputedFile:
    """Return the manifest entry of a written file of ``rows`` rows."""
    system, inside = open_filesystem(child_path(path, name))
    return PrecomputedFile(name, rows, system.get_file_info(inside).size, sha256_of(child_path(path, name)))
