"""Manifest and report of a data set, assembled from the parts that an ingest converted."""

import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysde.data.classes import order_labels
from raysde.data.dataset.manifest import Manifest, list_columns, shard_schema, write_manifest
from raysde.data.dataset.segments import write_index
from raysde.data.dataset.shard_table import Shard, Shards
from raysde.data.dataset.verify import record_etags
from raysde.data.ingest.convert import Converted, Rules
from raysde.data.ingest.identities import forget_unfinished, read_identities
from raysde.data.ingest.report import Report
from raysde.data.ingest.samples import Bad
from raysde.data.ingest.statistics import Statistics
from raysde.images.remarks import Remarks
from raysde.io.filesystems import child_path, open_filesystem, write_json
from raysde.io.parallel import map_ahead


def collect_parts(
    parts: Iterable[Converted], rules: Rules, out: str, *, source: str, licence: str, labels: tuple[str, ...] = ()
) -> Manifest:
    """Write report.json, segments.arrow and the manifest for converted parts, and return the manifest.

    Args:
        parts: the converted parts in the order of the source; each is dropped before the next but a few is taken.
        labels: class names, ordered by class number; if there are none, each label of a row is a class.

    Raises:
        ValueError: if no row is left, or two labels spell the same number differently, or no row has a value of
            an attribute.
        FileNotFoundError: if the identities of a part's rows are missing.
    """
    shards: list[Shard] = []
    bad: list[Bad] = []
    statistics, remarks = Statistics(), Remarks()
    unread: Counter[str] = Counter()
    segments: dict[str, list[int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        report = Report(out, Path(folder))
        for part, identities in map_ahead(lambda part: (part, read_identities(out, part.number)), parts):
            report.add(part, identities)
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
            shards=Shards.of(shards),
            labels=labels or order_labels(statistics.labels, lambda label: name_first_row(shards, out, label)),
            captions=statistics.captioned,
            statistics=statistics.summary(rules.channels),
            source=source,
            licence=licence,
            skipped=len(bad),
            columns=list_columns(shard_schema(rules.attributes)),
            attributes=statistics.ranges(rules.attributes, source),
        )
        write_json(child_path(out, "report.json"), {**describe_samples(bad, unread, remarks), **report.repetitions()})
    lengths = [segments.get(file, []) for file in manifest.shards.files.to_pylist()]
    if all(lengths):
        write_index(out, manifest.fingerprint, lengths)
    manifest = record_etags(manifest)
    write_manifest(manifest)
    forget_unfinished(out)
    return manifest


def name_first_row(shards: Iterable[Shard], out: str, label: str) -> str:
    """Return a label with the key of the first row of ``shards`` that has it, for a message."""
    for shard in shards:
        file = child_path(out, shard.file)
        if (place := pc.index(_read_column(file, "label"), label).as_py()) >= 0:
            return f"{label[:40]!r} of {_read_column(file, 'key')[place].as_py()}"
    raise AssertionError(f"label {label!r} was counted and is in no shard")


def describe_samples(bad: list[Bad], unread: Mapping[str, int], remarks: Remarks) -> dict[str, Any]:
    """Return the part of report.json about skipped and changed samples, and about files and keys that are ignored."""
    return {
        "skipped": [{"key": one.key, "reason": one.reason} for one in bad],
        "unread": dict(sorted(unread.items(), key=lambda kind: (-kind[1], kind[0]))),
        "remarks": remarks.to_json(),
    }


def _read_column(file: str, name: str) -> pa.ChunkedArray:
    system, inside = open_filesystem(file)
    with system.open_input_file(inside) as source:
        return pq.read_table(source, columns=[name]).column(name)
