"""Manifest and report of a data set, assembled from the parts that an ingest converted."""

import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysde.data.classes import order_labels
from raysde.data.dataset.kept_columns import KeptColumns, KeptWriter
from raysde.data.dataset.manifest import INGESTING, Manifest, list_columns, shard_schema, write_manifest
from raysde.data.dataset.segments import write_index
from raysde.data.dataset.shard_table import SPLITS, Shard, Shards
from raysde.data.dataset.verify import record_etags
from raysde.data.dataset.versions import versioned_name
from raysde.data.ingest.append import extend_labels, join_lengths, join_manifests, publish_version
from raysde.data.ingest.convert import Converted, Rules
from raysde.data.ingest.identities import forget_unfinished, read_identities
from raysde.data.ingest.kept_values import join_types, read_part
from raysde.data.ingest.left_out import read_decision
from raysde.data.ingest.report import Report
from raysde.data.ingest.samples import Bad
from raysde.data.ingest.statistics import Statistics
from raysde.images.remarks import Remarks
from raysde.io.filesystems import child_path, open_filesystem, write_json
from raysde.io.parallel import map_ahead


def collect_parts(
    parts: Iterable[Converted],
    rules: Rules,
    out: str,
    *,
    source: str,
    licence: str,
    labels: tuple[str, ...] = (),
    base: Manifest | None = None,
) -> Manifest:
    """Write report.json, segments.arrow, kept columns and the manifest for converted parts, and return the manifest.

    Args:
        parts: the converted parts in the order of the source; each is dropped before the next but a few is taken.
        labels: class names, ordered by class number; if there are none, each label of a row is a class.
        base: the version of the data set that the parts are appended to; None for a new data set.

    Raises:
        ValueError: if no row is left, or two labels spell the same number differently, or no row has a value of
            an attribute.
        FileNotFoundError: if the identities of a part's rows are missing.
    """
    shards: list[Shard] = []
    bad: list[Bad] = []
    statistics, remarks, second = Statistics(), Remarks(), Remarks()
    unread: Counter[str] = Counter()
    segments: dict[str, list[int]] = {}
    left_out = 0
    version = 1 if base is None else base.version + 1
    converted: list[tuple[int, list[Shard], dict[str, str]]] = []
    with tempfile.TemporaryDirectory() as folder:
        report = Report(out, Path(folder))
        for part, identities in map_ahead(lambda part: (part, read_identities(out, part.number)), parts):
            report.add(part, identities)
            shards += part.shards
            bad += part.bad
            left_out += part.left_out
            statistics.add(part.statistics)
            unread.update(part.unread)
            remarks.add(part.remarks)
            second.add(part.condition_remarks)
            segments |= part.segments
            converted.append((part.number, part.shards, part.kept))
        if not shards and left_out:
            raise ValueError(
                f"each of the {left_out} images of {source} nearly repeats one of the data set, so that nothing is "
                f"left to add; remove {child_path(out, INGESTING)}, or leave out --drop-duplicates"
            )
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
            kept=collect_kept(converted, rules.keep, out, version) if rules.keep else None,
            captions=statistics.captioned,
            statistics=statistics.summary(rules.channels),
            source=source,
            licence=licence,
            skipped=len(bad),
            columns=list_columns(shard_schema(rules.attributes, condition=rules.condition is not None)),
            condition=rules.condition,
            attributes=statistics.ranges(rules.attributes, source, () if base is None else base.attributes),
        )
        if base is not None:
            manifest = join_manifests(base, replace(manifest, labels=extend_labels(base.labels, manifest.labels)))
            segments = join_lengths(base, segments)
        content = {**describe_samples(bad, unread, remarks), **report.repetitions(), **describe_left_out(rules, out)}
        content |= {} if rules.condition is None else {"condition_remarks": second.to_json()}
        write_json(child_path(out, versioned_name("report.json", version)), content)
    lengths = [segments.get(file, []) for file in manifest.shards.files.to_pylist()]
    if all(lengths):
        write_index(out, manifest.fingerprint, lengths, version)
    manifest = record_etags(manifest)
    write_manifest(manifest)
    if base is not None:
        publish_version(base, manifest, source)
    forget_unfinished(out)
    return manifest


def collect_kept(
    parts: Iterable[tuple[int, list[Shard], dict[str, str]]], keep: tuple[str, ...], out: str, version: int
) -> KeptColumns:
    """Write the kept columns of all parts in the order of the data set's rows, and return their description.

    Args:
        parts: number, shards and types of kept columns of each part, in the order of the source.

    Raises:
        FileNotFoundError: if the file of a part is missing.
        OSError: naming the file, if it cannot be written.
    """
    listed = list(parts)
    types = {name: join_types({kept.get(name, "") for _, _, kept in listed}) or "string" for name in keep}
    writers = {split: KeptWriter(out, split, types, version) for split in SPLITS}
    tables = map_ahead(lambda part: (part[1], read_part(out, part[0], types)), (part for part in listed if part[1]))
    for shards, table in tables:
        first = 0
        for shard in shards:
            writers[shard.split].add(table.slice(first, shard.rows))
            first += shard.rows
    return KeptColumns(types, tuple(file for split in SPLITS for file in writers[split].close()))


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


def describe_left_out(rules: Rules, out: str) -> dict[str, Any]:
    """Return the part of report.json about near duplicates; empty if they are kept."""
    decision = read_decision(out) if rules.near is not None else None
    return {} if decision is None else {"near_duplicates": {k: v for k, v in decision.items() if k != "parts"}}


def _read_column(file: str, name: str) -> pa.ChunkedArray:
    system, inside = open_filesystem(file)
    with system.open_input_file(inside) as source:
        return pq.read_table(source, columns=[name]).column(name)
