"""Manifest and report of a data set, assembled from the parts that an ingest converted."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysde.data.classes import order_labels
from raysde.data.dataset.manifest import Manifest, Shard, write_manifest
from raysde.data.dataset.segments import write_index
from raysde.data.ingest.convert import Converted, Rules
from raysde.data.ingest.samples import Bad
from raysde.data.ingest.statistics import Statistics
from raysde.images.remarks import Remarks
from raysde.io.filesystems import child_path, open_filesystem, write_json

MOST_NAMED = 1000


def collect_parts(
    parts: Iterable[Converted], rules: Rules, out: str, *, source: str, licence: str, labels: tuple[str, ...] = ()
) -> Manifest:
    """Write report.json, segments.arrow and manifest.json for converted parts, and return the manifest.

    Args:
        parts: the converted parts in the order of the source.
        labels: class names, ordered by class number; if there are none, each label of a row is a class.

    Raises:
        ValueError: if no row is left, or two labels spell the same number differently.
    """
    shards: list[Shard] = []
    bad: list[Bad] = []
    statistics, remarks = Statistics(), Remarks()
    unread: Counter[str] = Counter()
    segments: dict[str, list[int]] = {}
    for part in parts:
        shards += part.shards
        bad += part.bad
        statistics.add(part.statistics)
        unread.update(part.unread)
        remarks.add(part.remarks)
        segments |= part.segments
    if not shards:
        first = f"; the first: {bad[0].reason}" if bad else ""
        raise ValueError(f"no image in {source} can be read{first}")
    shards.sort(key=lambda shard: shard.split)  # "train" before "validation"; the order of parts is kept
    manifest = Manifest(
        path=out,
        channels=rules.channels,
        size=rules.shape if rules.bucket_multiple else rules.stored,
        row_group=rules.row_group,
        shards=tuple(shards),
        labels=labels or order_labels(statistics.labels, lambda label: name_first_row(shards, out, label)),
        captions=statistics.captioned,
        statistics=statistics.summary(rules.channels),
        source=source,
        licence=licence,
        skipped=len(bad),
    )
    write_json(child_path(out, "report.json"), build_report(manifest, bad, unread, remarks))
    lengths = [segments.get(shard.file, []) for shard in manifest.shards]
    if all(lengths):
        write_index(out, manifest.fingerprint, lengths)
    write_manifest(manifest)
    return manifest


def name_first_row(shards: Iterable[Shard], out: str, label: str) -> str:
    """Return a label with the key of the first row of ``shards`` that has it, for a message."""
    for shard in shards:
        file = child_path(out, shard.file)
        if (place := pc.index(_read_column(file, "label"), label).as_py()) >= 0:
            return f"{label[:40]!r} of {_read_column(file, 'key')[place].as_py()}"
    raise AssertionError(f"label {label!r} was counted and is in no shard")


def build_report(manifest: Manifest, bad: list[Bad], unread: Mapping[str, int], remarks: Remarks) -> dict[str, Any]:
    """Return the content of report.json.

    It lists skipped and changed samples, files and keys that are ignored, and rows with equal content or equal keys.
    """
    same, repeated = find_repetitions(manifest, "hash"), find_repetitions(manifest, "key")
    return {
        "skipped": [{"key": one.key, "reason": one.reason} for one in bad],
        "unread": dict(sorted(unread.items(), key=lambda kind: (-kind[1], kind[0]))),
        "remarks": remarks.to_json(),
        "duplicates": {"rows": sum(len(keys) - 1 for keys in same), "groups": same[:MOST_NAMED]},
        "repeated_keys": {"rows": sum(len(keys) - 1 for keys in repeated), "groups": repeated[:MOST_NAMED]},
    }


def find_repetitions(manifest: Manifest, column: str) -> list[list[str]]:
    """Return a list of keys for each value that repeats in a column; takes 8 bytes of memory for each row."""
    files = [manifest.file(number) for number in range(len(manifest.shards))]
    hashes = [_hash_strings(_read_column(file, column)) for file in files]
    values, counts = np.unique(np.concatenate(hashes), return_counts=True)
    often = values[counts > 1]
    groups: dict[str, list[str]] = {}
    for file, found in zip(files, hashes, strict=True):
        places = np.flatnonzero(np.isin(found, often))
        if len(places):
            said, keys = _read_column(file, column), _read_column(file, "key")
            for place in places.tolist():
                groups.setdefault(said[place].as_py(), []).append(keys[place].as_py())
    return [keys for _, keys in sorted(groups.items()) if len(keys) > 1]


def _read_column(file: str, name: str) -> pa.ChunkedArray:
    system, inside = open_filesystem(file)
    with system.open_input_file(inside) as source:
        return pq.read_table(source, columns=[name]).column(name)


def _hash_strings(strings: pa.ChunkedArray) -> np.ndarray:
    """Return a hash of each string, uint64 [N], that is the same in every process."""
    import pandas as pd

    return pd.util.hash_array(np.asarray(strings.to_pylist(), dtype=object), categorize=False)
