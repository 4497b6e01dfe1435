"""The rows that a filter selects: a bit for each row of the data set, and counts by row group.

A selection of 10^9 rows takes 125 MB of bits and 8 bytes for each row group. It is computed once, stored beside the
run, and mapped into memory by every process that reads rows.
"""

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from raysde.data.dataset.filter_terms import Bounds, Filter
from raysde.data.dataset.filters import check_filter, columns_of, parse_filter
from raysde.data.dataset.kept_columns import KeptFile
from raysde.data.dataset.layout import Layout
from raysde.data.dataset.manifest import Manifest, Split
from raysde.io.filesystems import child_path, open_filesystem
from raysde.io.parallel import map_ahead

BLOCK = 1 << 22
"""Number of rows whose bits are counted at a time."""
SCHEMA = pa.schema([("bits", pa.large_binary()), ("before", pa.large_list(pa.int64()))])


@dataclass(frozen=True, eq=False)
class Selection:
    """The selected rows of a data set.

    Attributes:
        bits: a bit for each row of the data set, eight rows a byte, the first row in the lowest bit, uint8.
        before: number of selected rows before each row group of all shards, and of all rows, int64 [row groups + 1].
    """

    bits: np.ndarray
    before: np.ndarray

    @property
    def count(self) -> int:
        """Number of selected rows."""
        return int(self.before[-1])

    @cached_property
    def content(self) -> pa.Buffer:
        """The selection as an Arrow IPC file, for :meth:`from_buffer`."""
        offsets = np.array([0, len(self.bits)], dtype=np.int64)
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(self.bits)]
        bits = pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, buffers)
        before = pa.LargeListArray.from_arrays(np.array([0, len(self.before)], dtype=np.int64), pa.array(self.before))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, SCHEMA) as writer:
            writer.write_batch(pa.record_batch([bits, before], schema=SCHEMA))
        return sink.getvalue()

    @cached_property
    def sha256(self) -> str:
        """Hash of the content, in hexadecimal; equal selections have equal hashes."""
        return hashlib.sha256(self.content).hexdigest()

    @classmethod
    def from_buffer(cls, buffer: pa.Buffer) -> "Selection":
        """Return the selection in the content of a file, without copying it.

        Raises:
            ValueError: if the file is none.
        """
        try:
            batch = pa.ipc.open_file(buffer).get_batch(0)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(" ".join(str(error).split())) from error
        if batch.schema != SCHEMA or batch.num_rows != 1:
            raise ValueError("it is not a selection of rows")
        bits = np.frombuffer(batch.column("bits")[0].as_buffer(), dtype=np.uint8)
        return cls(bits, batch.column("before").flatten().to_numpy())

    def in_rows(self, start: int, stop: int) -> np.ndarray:
        """Return True for each selected row from ``start`` to ``stop``, bool [stop - start]."""
        return _unpack(self.bits, start, stop)


def _unpack(bits: np.ndarray, start: int, stop: int) -> np.ndarray:
    first = start // 8
    found = np.unpackbits(bits[first : -(-stop // 8)], bitorder="little")
    return found[start - 8 * first : stop - 8 * first].view(bool)


class FilteredLayout(Layout):
    """The selected rows of some shards as positions 0..count-1, row group by row group.

    Args:
        manifest: manifest of the data set.
        selection: the selected rows.
        numbers: numbers of the shards, int64.
    """

    def __init__(self, manifest: Manifest, selection: Selection, numbers: np.ndarray) -> None:
        self.group, self.selection, self.numbers = manifest.row_group, selection, numbers
        self.first_row, self.first_group = manifest.starts, count_groups(manifest)
        self.rank = selection.before[self.first_group[numbers]]
        counts = selection.before[self.first_group[numbers + 1]] - self.rank
        self.count_before = np.concatenate([[0], np.cumsum(counts)])
        self.count = int(self.count_before[-1])

    def count_touched(self) -> int:
        """Return the number of row groups with a selected row."""
        touched = np.concatenate([[0], np.cumsum(np.diff(self.selection.before) > 0)])
        return int((touched[self.first_group[self.numbers + 1]] - touched[self.first_group[self.numbers]]).sum())

    def rows_at(self, positions: np.ndarray) -> np.ndarray:
        """Return the row numbers, int64 [N], of positions [N] in 0..count-1."""
        place = np.searchsorted(self.count_before, positions, side="right") - 1
        ranks = self.rank[place] + positions - self.count_before[place]
        groups = np.searchsorted(self.selection.before, ranks, side="right") - 1
        shards = self.numbers[place]
        starts = self.first_row[shards] + (groups - self.first_group[shards]) * self.group
        result = np.empty(len(positions), dtype=np.int64)
        distinct, first, member = np.unique(groups, return_index=True, return_inverse=True)
        for number, at in enumerate(first.tolist()):
            start, stop = int(starts[at]), int(min(starts[at] + self.group, self.first_row[shards[at] + 1]))
            here = member == number
            selected = np.flatnonzero(self.selection.in_rows(start, stop))
            result[here] = start + selected[ranks[here] - self.selection.before[distinct[number]]]
        return result


def count_groups(manifest: Manifest) -> np.ndarray:
    """Return the number of row groups before each shard, and of all shards, int64 [shards + 1]."""
    return np.concatenate([[0], np.cumsum(-(-manifest.shards.rows // manifest.row_group))])


def filtered_layouts(manifest: Manifest, selection: Selection, split: Split) -> tuple[FilteredLayout, ...]:
    """Return a layout of the selected rows of a split for each bucket of image sizes that has any, sorted by shape."""
    shapes, buckets = manifest.shards.buckets()
    buckets = np.where(manifest.shards.in_split(split), buckets, -1)
    chosen = (np.flatnonzero(buckets == bucket) for bucket in range(len(shapes)))
    layouts = (FilteredLayout(manifest, selection, numbers) for numbers in chosen if len(numbers))
    return tuple(layout for layout in layouts if layout.count)


def select_rows(manifest: Manifest, text: str, key: str = "data.filter") -> Selection:
    """Return the rows of a data set that a filter selects.

    Only the filter's columns are read, and of these only the row groups whose statistics leave a selected row possible.

    Args:
        text: the filter.
        key: key that gave it, for messages.

    Raises:
        ValueError: if the data set keeps no columns, the filter does not fit them, it selects no row, or a file of kept
            columns is missing or damaged.
    """
    condition = parse_filter(text)
    if manifest.kept is None:
        raise ValueError(
            f"{key}: the data set at {manifest.path} keeps no columns; ingest it with --keep-columns "
            f"{','.join(columns_of(condition))}"
        )
    try:
        check_filter(condition, manifest.kept.types)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error
    bits, start = np.zeros(-(-manifest.rows // 8), dtype=np.uint8), 0
    files = manifest.kept.files
    for file, mask in zip(files, map_ahead(lambda each: _evaluate(manifest, each, condition), files), strict=True):
        _set_bits(bits, start, mask)
        start += file.rows
    selection = Selection(bits, count_before_groups(manifest, bits))
    if not selection.count:
        raise ValueError(
            f"{key}: none of the {manifest.rows} rows of {manifest.path} fulfils {text!r}; `raysde inspect "
            f"{manifest.path}` shows the columns' values"
        )
    return selection


def _set_bits(bits: np.ndarray, start: int, mask: np.ndarray) -> None:
    """Set the bits of the rows from ``start`` on where ``mask``, bool [N], is True."""
    padded = np.concatenate([np.zeros(start % 8, dtype=bool), mask])
    packed = np.packbits(padded, bitorder="little")
    bits[start // 8 : start // 8 + len(packed)] |= packed


def count_before_groups(manifest: Manifest, bits: np.ndarray) -> np.ndarray:
    """Return the number of set bits before each row group, and of all, int64 [row groups + 1]."""
    counts = np.zeros(int(count_groups(manifest)[-1]) + 1, dtype=np.int64)
    place, total = 1, 0
    for start, ends in _blocks(manifest):
        sums = np.concatenate([[0], np.cumsum(_unpack(bits, start, int(ends[-1])), dtype=np.int64)])
        counts[place : place + len(ends)] = total + sums[ends - start]
        place, total = place + len(ends), total + int(sums[-1])
    return counts


def _blocks(manifest: Manifest) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the first row of some shards, about ``BLOCK`` rows, and the row after each of their row groups."""
    cuts = [0, *(np.flatnonzero(np.diff(manifest.starts[:-1] // BLOCK)) + 1).tolist(), len(manifest.shards)]
    for first, stop in itertools.pairwise(cuts):
        rows = manifest.shards.rows[first:stop]
        groups = -(-rows // manifest.row_group)
        inside = np.arange(groups.sum()) - np.repeat(np.cumsum(groups) - groups, groups)
        ends = np.minimum((inside + 1) * manifest.row_group, np.repeat(rows, groups))
        if len(ends):
            yield int(manifest.starts[first]), np.repeat(manifest.starts[first:stop], groups) + ends


def _evaluate(manifest: Manifest, file: KeptFile, condition: Filter) -> np.ndarray:
    """Return True for each row of a file that the condition selects, bool [rows].

    Raises:
        ValueError: naming the file that is missing, damaged or of other rows.
    """
    columns, where = columns_of(condition), f"{file.file} of {manifest.path}"
    system, inside = open_filesystem(child_path(manifest.path, file.file))
    mask = np.zeros(file.rows, dtype=bool)
    try:
        with system.open_input_file(inside) as source:
            opened = pq.ParquetFile(source, pre_buffer=True, page_checksum_verification=True)
            if opened.metadata.num_rows != file.rows:
                raise ValueError(f"{where} has {opened.metadata.num_rows} rows, but {file.rows} in the manifest")
            for start, number in _possible_groups(opened.metadata, columns, condition):
                table = opened.read_row_group(number, columns=columns, use_threads=False)
                found = pads.dataset(table).scanner(columns={"selected": condition.expression()}, use_threads=False)
                selected = found.to_table().column("selected").fill_null(False).to_numpy()
                mask[start : start + len(selected)] = selected
    except FileNotFoundError:
        raise ValueError(f"{where} is missing; restore it or ingest again") from None
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{where} is damaged: {' '.join(str(error).split())}; restore it or ingest again") from error
    return mask


def _possible_groups(footer: pq.FileMetaData, columns: list[str], condition: Filter) -> Iterator[tuple[int, int]]:
    """Yield the first row and the number of each row group that may hold a selected row."""
    places = {footer.schema.column(place).name: place for place in range(footer.num_columns)}
    start = 0
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        found = {name: read_bounds(group.column(places[name]), group.num_rows) for name in columns}
        if condition.may_select({name: bounds for name, bounds in found.items() if bounds is not None}):
            yield start, number
        start += group.num_rows


def read_bounds(chunk: pq.ColumnChunkMetaData, rows: int) -> Bounds | None:
    """Return the statistics of a column of a row group; None if the file has none."""
    statistics = chunk.statistics
    if statistics is None or not statistics.has_null_count:
        return None
    known = statistics.has_min_max
    return Bounds(statistics.min if known else None, statistics.max if known else None, statistics.null_count, rows)
