"""Write the Parquet shards of a data set, verify them against the manifest, and read their captions."""

import hashlib

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raysde.data.dataset.manifest import SCHEMA, Manifest, Shard, Split, list_columns
from raysde.data.dataset.segments import write_segments
from raysde.io.errors import name_place_of_write
from raysde.io.filesystems import child_path, open_filesystem, sha256_of

COMPRESSED = ("image.path", "captions.list.element", "label", "key", "width", "height", "hash")


def write_shard(
    table: pa.Table,
    path: str,
    file: str,
    *,
    row_group: int,
    split: Split = "train",
    image: tuple[int, int] | None = None,
) -> Shard:
    """Write one shard of ``SCHEMA`` and return its manifest entry; the same rows give the same bytes.

    Args:
        row_group: number of rows in a full row group.
        image: (height, width) of all images; None if they differ.

    Raises:
        OSError: naming the shard, if it cannot be written.
    """
    out = pa.BufferOutputStream()
    write_segments(
        table.cast(SCHEMA),
        out,
        row_group=row_group,
        compression={"image.bytes": "none", **dict.fromkeys(COMPRESSED, "zstd")},
        use_dictionary=["label"],
        write_page_checksum=True,
        write_statistics=False,
    )
    content = out.getvalue()
    system, inside = open_filesystem(child_path(path, file))
    with name_place_of_write(f"shard {file}", path), system.open_output_stream(inside) as target:
        target.write(content)
    return Shard(file, table.num_rows, content.size, hashlib.sha256(content).hexdigest(), split, image)


def verify_shards(manifest: Manifest, *, hashes: bool) -> None:
    """Check that shards exist and have the manifest's bytes, columns and row groups, and with ``hashes`` its sha256.

    Raises:
        ValueError: naming the first shard that differs, and the difference.
    """
    if manifest.columns != list_columns(SCHEMA):
        raise ValueError(
            f"{manifest.path}/manifest.json lists columns {manifest.columns}, expected {list_columns(SCHEMA)}"
        )
    for number, shard in enumerate(manifest.shards):
        where = f"shard {shard.file} of {manifest.path}"
        system, inside = open_filesystem(manifest.file(number))
        info = system.get_file_info(inside)
        if info.type != pafs.FileType.File:
            raise ValueError(f"{where} is missing; restore it or ingest again")
        if hashes and (found := sha256_of(manifest.file(number))) != shard.sha256:
            raise ValueError(f"{where} has sha256 {found[:12]}, but {shard.sha256[:12]} in the manifest; ingest again")
        if info.size != shard.bytes:
            raise ValueError(f"{where} has {info.size} bytes, but {shard.bytes} in the manifest; ingest again")
        try:
            with pq.ParquetFile(system.open_input_file(inside)) as opened:
                same = fits_schema(opened, SCHEMA, shard.rows, manifest.row_group)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{where} is not Parquet: {' '.join(str(error).split())}") from error
        if not same:
            raise ValueError(f"{where} does not have the manifest's columns and rows; ingest again")


def fits_schema(opened: pq.ParquetFile, schema: pa.Schema, rows: int, row_group: int) -> bool:
    """Return True if a file has a schema's columns and ``rows`` rows, in row groups of ``row_group`` and a rest."""
    if list_columns(opened.schema_arrow) != list_columns(schema):
        return False
    footer = opened.metadata
    found = [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]
    full = all(count == row_group for count in found[:-1]) and all(count <= row_group for count in found[-1:])
    return full and sum(found) == footer.num_rows == rows


def distinct_captions(manifest: Manifest, limit: int) -> list[str]:
    """Return up to ``limit`` distinct captions of the training split, sorted, for training a tokenizer."""
    found: set[str] = set()
    for number, shard in enumerate(manifest.shards):
        if shard.split != "train":
            continue
        system, inside = open_filesystem(manifest.file(number))
        with system.open_input_file(inside) as source:
            lists = pq.read_table(source, columns=["captions"]).column("captions")
        for chunk in lists.chunks:
            found.update(caption for caption in chunk.flatten().unique().to_pylist() if caption)
        if len(found) >= limit:
            break
    return sorted(found)[:limit]
