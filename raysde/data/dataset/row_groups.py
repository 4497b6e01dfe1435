"""Row groups of Parquet files in a bounded memory: what random access to the rows of a data set reads through."""

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
"""Row groups that stay in memory, whatever their size."""
FOOTERS = 256
"""Files whose footers are remembered."""


class RowGroups(Generic[Group]):
    """The row groups of a folder's files, of which those used last are kept up to a number of bytes.

    Args:
        manifest: of the data set; the folder has a file for each of its shards, of the same name and row groups.
        folder: with the shards, or with what was computed from them.
        schema: of the files.
        form: what is kept of a row group, from the columns read.
        columns: those that are read; all if None.
        budget: bytes of columns that are kept; ``LEAST`` row groups are kept beyond it.
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
        """What is kept stays behind when they are sent to another process."""
        return {**vars(self), "kept": OrderedDict(), "footers": OrderedDict(), "bytes": 0}

    def holding(self, rows: np.ndarray) -> Iterator[tuple[int, Group, int]]:
        """For each of ``rows`` its place among them, its row group and its place in that; group by group.

        Raises:
            ValueError: naming the file that is missing, damaged or another.
        """
        for place, shard, number, inside in locate_rows(self.starts, self.manifest.row_group, rows):
            yield place, self.group(shard, number), inside

    def group(self, shard: int, number: int) -> Group:
        """A row group of a shard's file, from memory if it was used recently.

        Raises:
            ValueError: naming the file that is missing, damaged or another.
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
        """Columns of a row group, all if None, as they are stored; they are not kept.

        Raises:
            ValueError: naming the file that is missing, damaged or another.
        """
        opened = self._open_file(shard)
        try:
            return opened.read_row_group(number, columns=columns, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{self._name(shard)} is damaged: {' '.join(str(error).split())}") from error

    def _open_file(self, shard: int) -> pq.ParquetFile:
        """A shard's file, whose footer is remembered."""
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
