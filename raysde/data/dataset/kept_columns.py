"""Columns of a source that a data set keeps beside its shards, for filters: scores, languages, addresses, sizes.

SHARDS/columns-train-00000.parquet        the kept columns of consecutive training rows, with Parquet's own statistics
SHARDS/columns-validation-00000.parquet   the same of the validation rows

The shards themselves have a row group for every megabyte or two of images. Columns inside them would take one request
for each of these row groups; here a request reads a column of 32,768 rows.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raysde.data.dataset.shard_table import SPLITS, Split
from raysde.io.filesystems import child_path, write_bytes

TYPES: dict[str, pa.DataType] = {"bool": pa.bool_(), "int64": pa.int64(), "double": pa.float64(), "string": pa.string()}
"""Types of a kept column, by the name in the manifest."""
GROUP_ROWS = 1 << 15
"""Number of rows in a row group, the unit that a filter reads or passes over."""
FILE_ROWS = 1 << 20
FILE_BYTES = 64 << 20
"""Largest number of rows of a file, and of bytes in memory before it is written."""


@dataclass(frozen=True)
class KeptFile:
    """A file of kept columns.

    Attributes:
        file: name of the file in the data set's folder.
        split: split of its rows, which follow those of the file before.
        rows, bytes: number of its rows, and its size in bytes.
        sha256: hash of the file in hexadecimal.
    """

    file: str
    split: Split
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class KeptColumns:
    """The kept columns of a data set: one value or null for each row.

    Attributes:
        types: type of each column, of ``TYPES``, by its name.
        files: in the order of the data set's rows, training rows first.
    """

    types: dict[str, str] = field(hash=False)
    files: tuple[KeptFile, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the description as JSON values for :meth:`from_json`."""
        return {"types": self.types, "files": [asdict(file) for file in self.files]}

    @classmethod
    def from_json(cls, values: Any, rows: Mapping[Split, int]) -> "KeptColumns":
        """Return the description in a manifest.

        Args:
            rows: number of rows of each split.

        Raises:
            ValueError: naming the value that is impossible.
            KeyError, TypeError, AttributeError: if the JSON has another structure.
        """
        types, files = dict(values["types"]), tuple(KeptFile(**file) for file in values["files"])
        for name, kind in types.items():
            if not name.isidentifier() or kind not in TYPES:
                raise ValueError(f"kept column {name!r} of type {kind!r}")
        for file in files:
            if not (file.file.isprintable() and not {"/", "\\"} & set(file.file)) or file.split not in SPLITS:
                raise ValueError(f"file of kept columns {file.file!r}")
        for split in SPLITS:
            if sum(file.rows for file in files if file.split == split) != rows[split]:
                raise ValueError(f"the kept columns and the shards have different numbers of {split} rows")
        if [file.split for file in files] != sorted((file.split for file in files), key=SPLITS.index):
            raise ValueError("a file of kept validation rows precedes one of training rows")
        return cls(types, files)

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of the files."""
        return pa.schema([(name, TYPES[kind]) for name, kind in self.types.items()])

    def identity(self) -> str:
        """Return a hash of the columns' types and contents, 16 hexadecimal digits."""
        said = repr((sorted(self.types.items()), [file.sha256 for file in self.files]))
        return hashlib.sha256(said.encode()).hexdigest()[:16]


class KeptWriter:
    """Writes the kept columns of one split as files of bounded size; the same rows give the same bytes.

    Args:
        folder: path or URI of the data set.
        split: split of the rows.
        types: type of each column by name, see :class:`KeptColumns`.
        version: version of the data set that the rows belong to.
    """

    def __init__(self, folder: str, split: Split, types: Mapping[str, str], version: int = 1) -> None:
        self.folder, self.split = folder, split
        self.start = "columns" if version == 1 else f"columns-v{version}"
        self.schema = KeptColumns(dict(types), ()).schema
        self.waiting: list[pa.Table] = []
        self.rows = self.bytes = 0
        self.files: list[KeptFile] = []

    def add(self, table: pa.Table) -> None:
        """Add rows; full files are written.

        Raises:
            OSError: naming the file, if it cannot be written.
        """
        while len(table):
            taken = table.slice(0, FILE_ROWS - self.rows)
            table = table.slice(len(taken))
            self.waiting.append(taken)
            self.rows += len(taken)
            self.bytes += taken.nbytes
            if self.rows == FILE_ROWS or self.bytes >= FILE_BYTES:
                self._write()

    def close(self) -> list[KeptFile]:
        """Write the remaining rows, and return all files."""
        if self.rows:
            self._write()
        return self.files

    def _write(self) -> None:
        out, name = pa.BufferOutputStream(), f"{self.start}-{self.split}-{len(self.files):05d}.parquet"
        table = pa.concat_tables(self.waiting)
        pq.write_table(table, out, row_group_size=GROUP_ROWS, compression="zstd", write_page_checksum=True)
        content = out.getvalue()
        write_bytes(child_path(self.folder, name), memoryview(content))
        digest = hashlib.sha256(content).hexdigest()
        self.files.append(KeptFile(name, self.split, len(table), content.size, digest))
        self.waiting, self.rows, self.bytes = [], 0, 0


def join_kept(first: KeptColumns, second: KeptColumns) -> KeptColumns:
    """Return the kept columns of the rows of two data sets, those of ``first`` first in each split.

    Raises:
        ValueError: if they have other columns, or one column holds text here and numbers there.
    """
    if set(first.types) != set(second.types):
        raise ValueError(f"the kept columns are {', '.join(first.types)} before and {', '.join(second.types)} now")
    types = {}
    for name, kind in first.types.items():
        both = {kind, second.types[name]}
        if len(both) > 1 and both != {"int64", "double"}:
            raise ValueError(f"kept column {name} is of type {kind} before and {second.types[name]} now")
        types[name] = "double" if len(both) > 1 else kind
    files = [file for split in SPLITS for kept in (first, second) for file in kept.files if file.split == split]
    return KeptColumns(types, tuple(files))


def list_kept(kept: "KeptColumns | None") -> Iterable[KeptFile]:
    """Return the files of kept columns; none for a data set that keeps none."""
    return () if kept is None else kept.files
