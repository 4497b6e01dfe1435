"""A cache of Parquet row groups with bounded memory, for random access to the rows of a data set."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raysde.data.dataset.layout import locate_rows
from raysde.data.dataset.manifest import Manifest
from raysde.data.dataset.shards import fits_schema
from raysde.io.filesystems import child_path, open_filesystem

Group = TypeVar("Group")
LEAST = 2
"""Number of row groups that stay in memory, whatever their size."""
FOOTERS = 256
"""Number of files whose footers stay in memory."""


class RowGroups(Generic[Group]):
    """A least-recently-used cache of the row groups of a folder's files.

    Args:
        manifest: the data set's; the folder has a file of the same name, rows and row groups for each of its shards.
        folder: folder of the shards or of precomputed files.
        schema: columns of the files.
        form: converts a table of the columns to the value that is kept.
        columns: names of the columns to read; all if None.
        budget: bytes of columns that stay in memory; ``LEAST`` row groups stay even beyond it.
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
    ) -> None:
        self.manifest, self.folder, self.schema, self.form = manifest, folder, schema, form
        self.starts, self.columns, self.budget, self.bytes = np.asarray(manifest.starts), columns, budget, 0
        self.kept: OrderedDict[tuple[int, int], tuple[Group, int]] = OrderedDict()
        self.footers: OrderedDict[int, pq.FileMetaData] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for pickling to another process, without the cached row groups."""
        return {**vars(self), "kept": OrderedDict(), "footers": OrderedDict(), "bytes": 0}

    def holding(self, rows: np.ndarray) -> Iterator[tuple[int, Group, int]]:
        """Yield (position in ``rows``, row group, position in the row group) of each row, one row group after another.

        Raises:
            ValueError: naming the file that is missing, damaged or does not match the manifest.
        """
        for place, shard, number, inside in locate_rows(self.starts, self.manifest.row_group, rows):
            yield place, self.group(shard, number), inside

    def group(self, shard: int, number: int) -> Group:
        """Return row group ``number`` of a shard's file, from memory if it was used recently.

        Raises:
            ValueError: naming the file that is missing, damaged or does not match the manifest.
        """
        if (shard, number) not in self.kept:
            table = self.read(shard, number, self.columns)
            self.kept[shard, number] = self.form(table), table.nbytes
            self.bytes += table.nbytes
            while self.bytes > self.budget and len(self.kept) > LEAST:
                self.bytes -= self.kept.popitem(last=False)[1][1]
        self.kept.move_to_end((shard, number))
        return self.kept[shard, number][0]

    def read(self, shard: int, number: int, columns: list[str] | None) -> pa.Table:
        """Read columns of a row group, all if None, without keeping them in memory.

        Raises:
            ValueError: naming the file that is missing, damaged or does not match the manifest.
        """
        opened = self._open_file(shard)
        try:
            return opened.read_row_group(number, columns=columns, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{self._name(shard)} is damaged: {' '.join(str(error).split())}") from error

    def _open_file(self, shard: int) -> pq.ParquetFile:
        """Open a shard's file, check it against the manifest on the first time, and keep its footer."""
        known, wanted = self.footers.get(shard), self.manifest.shards[shard]
        system, inside = open_filesystem(child_path(self.folder, wanted.file))
        try:
            source = system.open_input_file(inside)
            found = pq.ParquetFile(source, metadata=known, page_checksum_verification=True, pre_buffer=True)
            same = known is not None or fits_schema(found, self.schema, wanted.rows, self.manifest.row_group)
        except FileNotFoundError:
            raise ValueError(f"{self._name(shard)} is missing") from None
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{self._name(shard)} cannot be read: {' '.join(str(error).split())}") from error
        if not same:
            raise ValueError(f"{self._name(shard)} does not have the manifest's columns and rows")
        self.footers[shard] = found.metadata
        self.footers.move_to_end(shard)
        if len(self.footers) > FOOTERS:
            self.footers.popitem(last=False)
        return found

    def _name(self, shard: int) -> str:
        return f"shard {self.manifest.shards[shard].file} of {self.folder}"
