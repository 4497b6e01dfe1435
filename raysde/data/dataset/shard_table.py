"""The shards of a data set as columns of an Arrow table, so that a list of 260,000 shards opens without parsing."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = get_args(Split)
TABLE = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.binary(32), nullable=False),
        pa.field("split", pa.dictionary(pa.int8(), pa.string()), nullable=False),
        pa.field("height", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("etag", pa.string()),
    ]
)
MOST = 2**62
"""Limit of every count, and of the number of all rows."""
KEPT = 1024
"""Number of shards that stay in memory as objects."""
PIECE = 1 << 12
"""Number of shards whose hashes are written out in hexadecimal at a time."""


@dataclass(frozen=True)
class Shard:
    """Manifest entry of one Parquet file.

    Attributes:
        file: name of the file in the data set's folder.
        rows, bytes: number of its rows, and its size in bytes.
        sha256: hash of the file in hexadecimal.
        split: train or validation, for all its rows.
        image: (height, width) of all its images in pixels; None if they differ.
        etag: the object store's entity tag of the file; None if the store gave none, as on disk.
    """

    file: str
    rows: int
    bytes: int
    sha256: str
    split: Split = "train"
    image: tuple[int, int] | None = None
    etag: str | None = None


class Shards(Sequence[Shard]):
    """The shards of a data set in row order; a :class:`Shard` is made when it is asked for.

    Args:
        table: one record batch of the schema ``TABLE``, possibly memory-mapped.
    """

    def __init__(self, table: pa.RecordBatch) -> None:
        self.table = table
        self.made: dict[int, Shard] = {}

    @classmethod
    def of(cls, shards: Iterable[Shard]) -> "Shards":
        """Return the table of some shards; a table is returned unchanged.

        Raises:
            ValueError: if a sha256 is not hexadecimal.
        """
        if isinstance(shards, Shards):
            return shards
        listed = list(shards)
        codes = pa.array([SPLITS.index(shard.split) for shard in listed], pa.int8())
        columns = {
            "file": [shard.file for shard in listed],
            "rows": [shard.rows for shard in listed],
            "bytes": [shard.bytes for shard in listed],
            "sha256": [bytes.fromhex(shard.sha256) for shard in listed],
            "split": pa.DictionaryArray.from_arrays(codes, pa.array(SPLITS)),
            "height": [shard.image and shard.image[0] for shard in listed],
            "width": [shard.image and shard.image[1] for shard in listed],
            "etag": [shard.etag for shard in listed],
        }
        arrays = [
            column if isinstance(column, pa.Array) else pa.array(column, field.type)
            for field, column in zip(TABLE, columns.values(), strict=True)
        ]
        return cls(pa.record_batch(arrays, schema=TABLE))

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @overload
    def __getitem__(self, place: int) -> Shard: ...
    @overload
    def __getitem__(self, place: slice) -> "Shards": ...
    def __getitem__(self, place: int | slice) -> "Shard | Shards":
        if isinstance(place, slice):
            return Shards(self.table.take(pa.array(range(*place.indices(len(self))), pa.int64())))
        if not -len(self) <= place < len(self):
            raise IndexError(f"shard {place} of {len(self)}")
        number = place % len(self)
        found = self.made.get(number)  # readers ask for the shard of each row, from several threads
        if found is None:
            if len(self.made) >= KEPT:
                self.made.clear()
            found = self.made[number] = _make_shard(**self.table.slice(number, 1).to_pylist()[0])
        return found

    def __iter__(self) -> Iterator[Shard]:
        for start in range(0, len(self), KEPT):
            for values in self.table.slice(start, KEPT).to_pylist():
                yield _make_shard(**values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shards) and bool(self.table.equals(other.table))

    def __hash__(self) -> int:
        return hash(self.table.column("sha256")[-1].as_py() if len(self) else 0)

    def __reduce__(self) -> tuple[type["Shards"], tuple[pa.RecordBatch]]:
        return Shards, (self.table,)

    def __repr__(self) -> str:
        return f"Shards({len(self)})"

    @cached_property
    def rows(self) -> np.ndarray:
        """Number of rows of each shard, int64 [N]."""
        return self.table.column("rows").to_numpy()

    @cached_property
    def bytes(self) -> np.ndarray:
        """Size of each shard's file in bytes, int64 [N]."""
        return self.table.column("bytes").to_numpy()

    @property
    def files(self) -> pa.StringArray:
        """File name of each shard."""
        return self.table.column("file")

    @property
    def etags(self) -> list[str | None]:
        """Entity tag of each shard; None where the store gave none."""
        return self.table.column("etag").to_pylist()

    def in_split(self, split: Split) -> np.ndarray:
        """Return True for each shard of a split, bool [N]."""
        return self.table.column("split").indices.to_numpy() == SPLITS.index(split)

    def buckets(self) -> tuple[list[tuple[int, int] | None], np.ndarray]:
        """Return the distinct (height, width) of images in pixels, sorted, and the place of each shard's in them.

        None, for shards with images of different sizes, comes first. The places are int64 [N].
        """
        height, width = (pc.fill_null(self.table.column(side), 0).to_numpy() for side in ("height", "width"))
        codes, places = np.unique(height.astype(np.int64) << 32 | width, return_inverse=True)
        return [divmod(code, 1 << 32) if code else None for code in codes.tolist()], places

    def hexadecimal(self) -> Iterator[str]:
        """Yield the sha256 of all shards in order, as hexadecimal text of many shards at a time."""
        hashes = self.table.column("sha256")
        if not len(hashes):
            return
        width = hashes.type.byte_width
        data = memoryview(hashes.buffers()[1])[hashes.offset * width : (hashes.offset + len(hashes)) * width]
        for start in range(0, len(data), PIECE * width):
            yield data[start : start + PIECE * width].hex()

    def with_etags(self, etags: Iterable[str | None]) -> "Shards":
        """Return the shards with other entity tags, one for each, in order."""
        place = TABLE.get_field_index("etag")
        return Shards(self.table.set_column(place, TABLE.field(place), pa.array(etags, pa.string())))

    def to_bytes(self) -> memoryview:
        """Return the table as the content of an Arrow IPC file, for :meth:`from_buffer`."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, TABLE) as writer:
            writer.write_batch(self.table)
        return memoryview(sink.getvalue())

    @classmethod
    def from_buffer(cls, buffer: pa.Buffer) -> "Shards":
        """Return the shards in the content of an Arrow IPC file, without copying it.

        Raises:
            ValueError: naming the value that no shard can have, if the file is not one of :meth:`to_bytes`.
        """
        try:
            opened = pa.ipc.open_file(buffer)
            if opened.schema != TABLE or opened.num_record_batches != 1:
                raise ValueError(f"its columns are {json.dumps(opened.schema.names)[:200]} in another form")
            table = opened.get_batch(0)
            table.validate(full=True)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(" ".join(str(error).split())) from error
        found = cls(table)
        found.check()
        return found

    def check(self) -> None:
        """Check the values of all columns.

        Raises:
            ValueError: naming the first value that no shard can have.
        """
        columns = {name: self.table.column(name) for name in TABLE.names}
        for name in ("file", "rows", "bytes", "sha256", "split"):
            if columns[name].null_count:
                raise ValueError(f"a shard has no {name}")
        strange = pc.or_(
            pc.invert(pc.utf8_is_printable(columns["file"])), pc.match_substring_regex(columns["file"], r"[/\\]")
        )
        if pc.any(strange).as_py():
            raise ValueError(f"shard file {columns['file'].filter(strange)[0].as_py()!r}")
        if columns["split"].dictionary.to_pylist() != list(SPLITS):
            raise ValueError(f"splits {columns['split'].dictionary.to_pylist()}")
        for name in ("rows", "bytes"):
            _need_range(columns, name, 0, MOST)
        for name in ("height", "width"):
            _need_range(columns, name, 1, 2**31)
        if columns["height"].is_null() != columns["width"].is_null():
            raise ValueError("a shard has a height without a width")
        if len(self) and float(self.rows.sum(dtype=np.float64)) >= MOST:
            raise ValueError("its shards have too many rows")


def _make_shard(*, sha256: bytes, height: int | None, width: int | None, **others: Any) -> Shard:
    image = None if height is None or width is None else (height, width)
    return Shard(**others, sha256=sha256.hex(), image=image)


def _need_range(columns: dict[str, pa.Array], name: str, least: int, limit: int) -> None:
    # numpy, since Arrow's kernels keep memory for each of their threads
    values = columns[name]
    numbers = (pc.fill_null(values, least) if values.null_count else values).to_numpy()
    if len(numbers) and (numbers.min() < least or numbers.max() >= limit):
        wrong = int(np.flatnonzero((numbers < least) | (numbers >= limit))[0])
        raise ValueError(f"shard {columns['file'][wrong].as_py()}: {name}")


def parse_shards(entries: Any) -> Shards:
    """Return the shards of a manifest of format 2 or 3, which lists them as JSON objects.

    Raises:
        ValueError: naming the value that no shard can have.
        KeyError, TypeError: if an entry has another structure.
    """
    return Shards.of([_parse_entry(**entry) for entry in entries])


def _parse_entry(*, file: Any, rows: Any, bytes: Any, sha256: Any, split: Any = "train", image: Any = None) -> Shard:
    if not (type(file) is str and file.isprintable() and not {"/", "\\"} & set(file)):
        raise ValueError(f"shard file {file!r}")
    hashed = type(sha256) is str and re.fullmatch("[0-9a-f]{64}", sha256) is not None
    if not (hashed and all(type(value) is int and 0 <= value < MOST for value in (rows, bytes))):
        raise ValueError(f"shard {file}: rows, bytes, sha256")
    if split not in SPLITS:
        raise ValueError(f"shard {file}: split {split!r}")
    sides = isinstance(image, list) and len(image) == 2 and all(type(n) is int and 0 < n < 2**31 for n in image)
    if not (image is None or sides):
        raise ValueError(f"shard {file}: image {image!r}")
    return Shard(file, rows, bytes, sha256, split, image and (image[0], image[1]))
