"""Weights of the rows of a data set: a column of its shards, or the same total for each class."""

from contextlib import closing
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysde.data.dataset.kept_columns import KeptFile, list_kept
from raysde.data.dataset.layout import Rows
from raysde.data.dataset.manifest import Manifest
from raysde.data.dataset.weighted_rows import WeightedRows
from raysde.io.filesystems import child_path, open_filesystem
from raysde.io.near import did_you_mean
from raysde.io.parallel import map_ahead


@dataclass(frozen=True, kw_only=True)
class ColumnWeights:
    """Weights in a kept column, or in a column of the shards."""

    column: str = field(
        metadata={
            "description": "column of numbers that `raysde ingest --keep-columns` kept, or of the shards, from 0 up; "
            "rows with 0 are not drawn"
        }
    )


NUMERIC = ("int64", "double")
"""Types of kept columns that can be weights."""
Weights = Literal["balanced"] | ColumnWeights
"""``balanced`` draws each class equally often, and the rows of a class equally often."""


def weigh_rows(manifest: Manifest, rows: Rows, weights: Weights, chunk: int, seed: int) -> WeightedRows:
    """Return the rows to train on, drawn in proportion to their weights.

    The column is read whole; the result takes 8 bytes a row.

    Args:
        rows: rows of one image size.
        chunk: number of neighbouring rows that are read together.
        seed: seed of the draws.

    Raises:
        ValueError: if the column is missing or no column of numbers, a row's weight or label is missing, a weight is
            negative or not finite, or all weights are zero.
    """
    name = "label" if weights == "balanced" else weights.column
    where = f"data.weights: {manifest.path}"
    numbers = rows[np.arange(rows.count)]
    is_kept = weights != "balanced" and name in _list_kept_numbers(manifest)
    found = (_read_kept(manifest, name) if is_kept else _read_shards(manifest, weights))[numbers]
    missing = np.flatnonzero(np.isnan(found))
    if len(missing):
        what = "label" if weights == "balanced" else f"number in column {name!r}"
        raise ValueError(f"{where}: row {int(numbers[missing[0]])} has no {what}; give it one, or ingest without it")
    if weights == "balanced":
        classes = found.astype(np.int64)
        found = 1.0 / np.bincount(classes)[classes]
    wrong = np.flatnonzero(~np.isfinite(found) | (found < 0))
    if len(wrong):
        row, value = int(numbers[wrong[0]]), found[wrong[0]]
        raise ValueError(
            f"{where}: row {row} has the weight {value:g} in column {name!r}; weights are numbers from 0 up"
        )
    if not found.any():
        raise ValueError(f"{where}: column {name!r} is 0 in all rows; give at least one a weight above 0")
    return WeightedRows.of(rows, found, chunk, seed)


def _list_kept_numbers(manifest: Manifest) -> list[str]:
    """Return the names of the kept columns of numbers."""
    return [] if manifest.kept is None else [name for name, kind in manifest.kept.types.items() if kind in NUMERIC]


def _read_kept(manifest: Manifest, name: str) -> np.ndarray:
    """Return a kept column of all rows, float64 [rows], NaN for null.

    Raises:
        ValueError: if a file of kept columns is missing or damaged.
    """

    def read(file: KeptFile) -> np.ndarray:
        system, inside = open_filesystem(child_path(manifest.path, file.file))
        try:
            with system.open_input_file(inside) as source:
                return _floats(pq.read_table(source, columns=[name]).column(name))
        except (pa.ArrowException, OSError) as error:
            raise ValueError(
                f"{file.file} of {manifest.path} cannot be read: {' '.join(str(error).split())}; restore it or ingest "
                "again"
            ) from error

    with closing(map_ahead(read, list_kept(manifest.kept))) as parts:
        return np.concatenate(list(parts))


def _read_shards(manifest: Manifest, weights: Weights) -> np.ndarray:
    """Return weights or class numbers in the training shards, float64 [rows], NaN for null and for other rows.

    Raises:
        ValueError: as :func:`_read_column`.
    """
    values = np.full(manifest.rows, np.nan)
    trained = np.flatnonzero(manifest.shards.in_split("train")).tolist()
    with closing(map_ahead(lambda shard: _read_column(manifest, shard, weights), trained)) as columns:
        for shard, column in zip(trained, columns, strict=True):
            first, last = manifest.starts[shard : shard + 2]
            values[first:last] = _number_labels(column, manifest) if weights == "balanced" else _floats(column)
    return values


def _read_column(manifest: Manifest, shard: int, weights: Weights) -> pa.ChunkedArray:
    """Return the column of a shard that the weights need.

    Raises:
        ValueError: if the shard is missing or damaged, has no such column, or a weight is no number.
    """
    where = f"shard {manifest.shards[shard].file} of {manifest.path}"
    system, inside = open_filesystem(manifest.file(shard))
    try:
        with system.open_input_file(inside) as source, pq.ParquetFile(source) as opened:
            schema = opened.schema_arrow
            numeric = [
                each.name for each in schema if pa.types.is_integer(each.type) or pa.types.is_floating(each.type)
            ]
            name = "label" if weights == "balanced" else weights.column
            if weights != "balanced" and name not in numeric:
                numeric += _list_kept_numbers(manifest)
                raise ValueError(
                    f"data.weights.column: {where} has no column of numbers {name!r}{did_you_mean(name, numeric)}; "
                    f"it has {', '.join(numeric)}"
                )
            return opened.read(columns=[name]).column(name)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{where} cannot be read: {' '.join(str(error).split())}; restore it or ingest again"
        ) from error


def _floats(column: pa.ChunkedArray) -> np.ndarray:
    return pc.fill_null(pc.cast(column, pa.float64(), safe=False), float("nan")).to_numpy()


def _number_labels(column: pa.ChunkedArray, manifest: Manifest) -> np.ndarray:
    """Return class numbers as float64 [N], NaN for rows without a label or with one that the manifest does not list."""
    found = pc.index_in(column, pa.array(manifest.labels, pa.string()), skip_nulls=True)
    return _floats(found)
