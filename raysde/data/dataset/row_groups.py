"""A cache of Parquet row groups with bounded memory, for random access to the rows of a data set."""

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from threading import Lock
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raysde.data.dataset.layout import locate_rows
from raysde.data.dataset.manifest import Manifest
from raysde.data.dataset.segments import Segments
from raysde.data.dataset.shards import fits_schema, list_columns
from raysde.io.filesystems import child_path, open_filesystem
from raysde.io.ranges import read_range

Group = TypeVar("Group")
LEAST = 2
"""Number of row groups that stay in memory, whatever their size."""
FOOTERS = 256
"""Number of files whose footers stay in memory."""
OPEN = 4096
"""Number of remote files without segments that stay open; each needs a few hundred bytes."""
AHEAD = 8
"""Number of row groups that are read from a remote store at the same time."""
REPAIR = "restore the file or make its folder again"


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    """Return this process's threads that read from remote stores."""
    return ThreadPoolExecutor(AHEAD, "row-groups")


class RowGroups(Generic[Group]):
    """A least-recently-used cache of the row groups of a folder's files.

    Args:
        manifest: the data set's; the folder has a file of the same name, rows and row groups for each of its shards.
        folder: folder of the shards or of precomputed files.
        schema: columns of the files.
        form: converts a table of the columns to the value that is kept.
        columns: names of the columns to read; all if None.
        budget: bytes of columns that stay in memory; ``LEAST`` row groups stay even beyond it.
        segments: places of the files' segments, each read by one request with all columns; None to read footers and
            then the bytes of the columns alone.
    """

    def __init__(
        self,
        manifest: Manifest,
        folder: str,
        schema: pa.Schema,
        form: Callable[[pa.Table], Group],
        *,
        columns: list[str] | None = None,
        budget: int,
        segments: Segments | None = None,
    ) -> None:
        self.manifest, self.folder, self.schema, self.form = manifest, folder, schema, form
        self.starts, self.columns, self.budget, self.bytes = np.asarray(manifest.starts), columns, budget, 0
        self.segments = segments
        self.__setstate__(vars(self))

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for pickling to another process, without the cached row groups and open files."""
        apart = ("kept", "footers", "opened", "lock", "opening")
        return {name: value for name, value in vars(self).items() if name not in apart} | {"bytes": 0}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.kept: OrderedDict[tuple[int, int], tuple[Group, int]] = OrderedDict()
        self.footers: OrderedDict[int, pq.FileMetaData] = OrderedDict()
        self.opened: OrderedDict[int, pa.NativeFile] = OrderedDict()
        self.lock, self.opening = Lock(), [Lock() for _ in range(2 * AHEAD)]

    def holding(self, rows: np.ndarray) -> Iterator[tuple[int, Group, int]]:
        """Yield (position in ``rows``, row group, position in the row group) of each of the rows [B], group by group.

        Rows are numbered from 0 over all shards, in the manifest's order.

        Row groups of a remote store are read in parallel, up to ``AHEAD`` at a time.

        Raises:
            ValueError: naming the file that is missing, damaged or does not match the manifest.
        """
        located = locate_rows(self.starts, self.manifest.row_group, rows)
        groups = [(key, list(each)) for key, each in itertools.groupby(located, key=lambda found: (found[1], found[2]))]
        for first in range(0, len(groups), AHEAD):
            part = groups[first : first + AHEAD]
            tables = self._read_together([key for key, _ in part if key not in self.kept])
            for key, members in part:
                group = self.group(key[0], key[1], tables.pop(key, None))
                for place, _, _, inside in members:
                    yield place, group, inside

    def _read_together(self, keys: list[tuple[int, int]]) -> dict[tuple[int, int], pa.Table]:
        """Return the tables of row groups (shard, number), read in parallel; empty on a local disk."""
        if len(keys) < 2 or isinstance(open_filesystem(self.folder)[0], pafs.LocalFileSystem):
            return {}
        return dict(zip(keys, _pool().map(lambda key: self.read(key[0], key[1], self.columns), keys), strict=True))

    def group(self, shard: int, number: int, table: pa.Table | None = None) -> Group:
        """Return row group ``number`` of a shard's file, from memory if it was used recently.

        Args:
            table: the row group's columns, if they were read already.

        Raises:
            ValueError: naming the file that is missing, damaged or does not match the manifest.
        """
        if (shard, number) not in self.kept:
            table = self.read(shard, number, self.columns) if table is None else table
            self.kept[shard, number] = self.form(table), table.nbytes
            self.bytes += table.nbytes
            while self.bytes > self.budget and len(self.kept) > LEAST:
                self.bytes -= self.kept.popitem(last=False)[1][1]
        self.kept.move_to_end((shard, number))
        return self.kept[shard, number][0]

    def read(self, shard: int, number: int, columns: list[str] | None) -> pa.Table:
        """Read columns, all if None, of row group ``number`` of shard ``shard``, without keeping them in memory.

        Raises:
            ValueError: naming the file that is missing, damaged or does not match the manifest.
        """
        if self.segments is not None and columns == self.columns:
            return self._read_segment(shard, number, columns, self.segments)
        opened = self._open_file(shard)
        try:
            return opened.read_row_group(number, columns=columns, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{self._name(shard)} is damaged: {' '.join(str(error).split())}; {REPAIR}") from error

    def _read_segment(self, shard: int, number: int, columns: list[str] | None, segments: Segments) -> pa.Table:
        start, length = segments.place(shard, number)
        wanted = min(self.manifest.row_group, self.manifest.shards[shard].rows - number * self.manifest.row_group)
        try:
            content = read_range(child_path(self.folder, self.manifest.shards[shard].file), start, length)
            found = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
            same = list_columns(found.schema_arrow) == list_columns(self.schema) and found.metadata.num_rows == wanted
            table = found.read(columns=columns, use_threads=False) if same else None
        except FileNotFoundError:
            raise ValueError(f"{self._name(shard)} is missing; {REPAIR}") from None
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{self._name(shard)} is damaged: {' '.join(str(error).split())}; {REPAIR}") from error
        if table is None:
            raise ValueError(f"{self._name(shard)} does not have the manifest's columns and rows; {REPAIR}")
        return table

    def _open_source(self, shard: int) -> pa.NativeFile:
        """Open a shard's file; remote files stay open, since each opening is a request for the file's size."""
        with self.opening[shard % len(self.opening)]:  # parallel reads of one shard open it once
            with self.lock:
                if shard in self.opened:
                    self.opened.move_to_end(shard)
                    return self.opened[shard]
            system, inside = open_filesystem(child_path(self.folder, self.manifest.shards[shard].file))
            source = system.open_input_file(inside)
            if not isinstance(system, pafs.LocalFileSystem):
                with self.lock:
                    self.opened[shard] = source
                    if len(self.opened) > OPEN:
                        self.opened.popitem(last=False)
            return source

    def _open_file(self, shard: int) -> pq.ParquetFile:
        """Open a shard's file, check it against the manifest on the first time, and keep its footer."""
        known, wanted = self.footers.get(shard), self.manifest.shards[shard]
        try:
            source = self._open_source(shard)
            found = pq.ParquetFile(source, metadata=known, page_checksum_verification=True, pre_buffer=True)
            same = known is not None or fits_schema(found, self.schema, wanted.rows, self.manifest.row_group)
        except FileNotFoundError:
            raise ValueError(f"{self._name(shard)} is missing; {REPAIR}") from None
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{self._name(shard)} cannot be read: {' '.join(str(error).split())}; {REPAIR}") from error
        if not same:
            raise ValueError(f"{self._name(shard)} does not have the manifest's columns and rows; {REPAIR}")
        with self.lock:
            self.footers[shard] = found.metadata
            self.footers.move_to_end(shard)
            if len(self.footers) > FOOTERS:
                self.footers.popitem(last=False)
        return found

    def _name(self, shard: int) -> str:
        return f"shard {self.manifest.shards[shard].file} of {self.folder}"
