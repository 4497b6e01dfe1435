"""Segments: row groups of a Parquet file that can each be read by one request.

A shard is an ordinary Parquet file. Behind each of its row groups lies a footer of that row group alone, which other
readers of the file pass over. A segment is the four bytes before a row group, the row group and this footer: a whole
Parquet file of one row group. ``segments.arrow`` beside the manifest lists the bytes of all segments, so that a reader
needs no footer of the shard:

SHARDS/segments.arrow         bytes: uint32, the length of each segment, shard by shard in the manifest's order
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raysde.data.dataset.versions import versioned_name
from raysde.io.filesystems import child_path, open_filesystem, read_bytes, write_bytes

FILE = "segments.arrow"
MAGIC = b"PAR1"
"""First and last bytes of a Parquet file; a segment begins with the last bytes of the one before."""


def write_segments(table: pa.Table, out: pa.NativeFile, *, row_group: int, **settings: Any) -> None:
    """Write a table as a Parquet file of segments.

    Args:
        row_group: number of rows in a full row group.
        settings: settings of :class:`pyarrow.parquet.ParquetWriter`.
    """
    with pq.ParquetWriter(out, table.schema, **settings) as writer:
        for start in range(0, max(1, len(table)), row_group):
            rows, alone = table.slice(start, row_group), pa.BufferOutputStream()
            pq.write_table(rows, alone, row_group_size=row_group, **settings)
            writer.write_table(rows, row_group_size=row_group)
            content = alone.getvalue()
            footer = int.from_bytes(content[-8:-4].to_pybytes(), "little")
            out.write(content[-8 - footer :])


def segment_lengths(path: str) -> list[int]:
    """Return the bytes of each segment of a file, read from its footer; empty if it has none.

    Args:
        path: path or URI of the file.
    """
    system, inside = open_filesystem(path)
    with system.open_input_file(inside) as source:
        footer, size = pq.read_metadata(source), source.size()
        starts = [_first_byte(footer.row_group(number)) - len(MAGIC) for number in range(footer.num_row_groups)]
        ends = [*starts[1:], size - 8 - footer.serialized_size - len(MAGIC)]
        if not starts or source.read_at(len(MAGIC), ends[0]) != MAGIC or ends[0] < starts[0] + 12:
            return []
    return [end + len(MAGIC) - start for start, end in zip(starts, ends, strict=True)]


def _first_byte(group: pq.RowGroupMetaData) -> int:
    column = group.column(0)
    return int(column.dictionary_page_offset or column.data_page_offset)


class Segments:
    """Places of all segments of a data set.

    Args:
        counts: number of row groups of each shard, int64 [shards].
        lengths: bytes of each segment, uint32 [N], shard by shard.
    """

    def __init__(self, counts: np.ndarray, lengths: np.ndarray) -> None:
        self.before, self.lengths = np.concatenate([[0], np.cumsum(counts)]), lengths
        assert self.before[-1] == len(lengths)

    def of_shard(self, shard: int) -> list[int]:
        """Return the bytes of each segment of a shard."""
        return [int(length) for length in self.lengths[self.before[shard] : self.before[shard + 1]]]

    def place(self, shard: int, number: int) -> tuple[int, int]:
        """Return the first byte, in its shard, and the bytes of segment ``number`` of a shard."""
        first = int(self.before[shard])
        # neighbours share the four bytes between them
        start = int(self.lengths[first : first + number].sum(dtype=np.int64)) - number * len(MAGIC)
        return start, int(self.lengths[first + number])


def write_index(folder: str, fingerprint: str, lengths: Sequence[Sequence[int]], version: int = 1) -> None:
    """Write ``segments.arrow`` of a data set.

    Args:
        lengths: bytes of the segments of each shard, in the manifest's order.
        version: version of the data set, see :mod:`raysde.data.dataset.versions`.

    Raises:
        OSError: naming the file, if it cannot be written.
    """
    values = pa.array(np.concatenate([np.asarray(each, dtype=np.uint32) for each in lengths]))
    table = pa.table({"bytes": values}).replace_schema_metadata({"fingerprint": fingerprint})
    out = pa.BufferOutputStream()
    with pa.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table)
    write_bytes(child_path(folder, versioned_name(FILE, version)), out.getvalue())


def read_index(folder: str, fingerprint: str, counts: np.ndarray, version: int = 1) -> Segments | None:
    """Return the places of a data set's segments; None if it has none, as data sets from before there were segments.

    Args:
        folder: path or URI of the data set.
        fingerprint: fingerprint of the data set.
        counts: number of row groups of each shard, int64 [shards].
        version: version of the data set.

    Raises:
        ValueError: if the index is damaged or of another data set.
    """
    where = child_path(folder, versioned_name(FILE, version))
    try:
        content = read_bytes(where)
    except FileNotFoundError:
        return None
    try:
        table = pa.ipc.open_file(pa.py_buffer(content)).read_all()
        said: Mapping[bytes, bytes] = table.schema.metadata or {}
        if said.get(b"fingerprint") != fingerprint.encode() or len(table) != counts.sum():
            raise ValueError("it belongs to another data set")
        return Segments(counts, table.column("bytes").combine_chunks().to_numpy())
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise ValueError(f"{where}: {error}; remove it, and shards are read by their footers") from error
