"""Write the Parquet shards of a data set, compare their schema, and read their captions."""

import hashlib
from collections.abc import Callable
from contextlib import closing

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raysde.data.condition_column import CONDITION
from raysde.data.dataset.manifest import Manifest, list_columns, shard_schema
from raysde.data.dataset.segments import write_segments
from raysde.data.dataset.shard_table import Shard, Split
from raysde.io.errors import name_place_of_write
from raysde.io.filesystems import child_path, open_filesystem
from raysde.io.parallel import THREADS, map_ahead

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
    """Write one shard and return its manifest entry; the same rows give the same bytes.

    Args:
        table: rows of :func:`raysde.data.dataset.manifest.shard_schema`, with or without attributes and second images.
        row_group: number of rows in a full row group.
        image: (height, width) of all images; None if they differ.

    Raises:
        OSError: naming the shard, if it cannot be written.
    """
    out = pa.BufferOutputStream()
    attributes = table.schema.field("attributes").type.names if "attributes" in table.column_names else []
    second = [CONDITION] if CONDITION in table.column_names else []
    compressed = (*COMPRESSED, *(f"attributes.{name}" for name in attributes), *(f"{each}.path" for each in second))
    plain = ("image.bytes", *(f"{each}.bytes" for each in second))
    write_segments(
        table.cast(shard_schema(attributes, condition=bool(second))),
        out,
        row_group=row_group,
        compression={**dict.fromkeys(plain, "none"), **dict.fromkeys(compressed, "zstd")},
        use_dictionary=["label"],
        write_page_checksum=True,
        write_statistics=False,
    )
    content = out.getvalue()
    system, inside = open_filesystem(child_path(path, file))
    with name_place_of_write(f"shard {file}", path), system.open_output_stream(inside) as target:
        target.write(content)
    return Shard(file, table.num_rows, content.size, hashlib.sha256(content).hexdigest(), split, image)


def fits_schema(opened: pq.ParquetFile, schema: pa.Schema, rows: int, row_group: int) -> bool:
    """Return True if a file has a schema's columns and ``rows`` rows, in row groups of ``row_group`` and a rest."""
    if list_columns(opened.schema_arrow) != list_columns(schema):
        return False
    footer = opened.metadata
    found = [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]
    full = all(count == row_group for count in found[:-1]) and all(count <= row_group for count in found[-1:])
    return full and sum(found) == footer.num_rows == rows


def distinct_captions(
    manifest: Manifest, limit: int, selected: Callable[[int, int], np.ndarray] | None = None
) -> list[str]:
    """Return up to ``limit`` distinct captions of the training split, sorted, for training a tokenizer.

    Args:
        selected: returns True for each row from one row number to another that counts, bool [N]; None for all rows.
    """
    found: set[str] = set()
    numbers = np.flatnonzero(manifest.shards.in_split("train")).tolist()
    # a few captions are in the first shard, and many are worth reading ahead
    threads = min(THREADS, -(-limit // 1000))
    with closing(map_ahead(lambda number: _read_captions(manifest, number, selected), numbers, threads)) as shards:
        for captions in shards:
            found.update(captions)
            if len(found) >= limit:
                break
    return sorted(found)[:limit]


def _read_captions(manifest: Manifest, number: int, selected: Callable[[int, int], np.ndarray] | None) -> list[str]:
    """Return the captions of a shard; most of those that repeat are left out."""
    system, inside = open_filesystem(manifest.file(number))
    with system.open_input_file(inside) as source:
        lists = pq.read_table(source, columns=["captions"]).column("captions")
    if selected is not None:
        lists = lists.filter(pa.array(selected(*manifest.starts[number : number + 2].tolist())))
    return [caption for chunk in lists.chunks for caption in chunk.flatten().unique().to_pylist() if caption]
