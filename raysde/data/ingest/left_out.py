"""Near duplicates that an ingest leaves out: the decision, its record, and the list of rows.

A row can be left out only once all rows are known. An ingest therefore converts every part first, with the perceptual
hashes of its rows, then searches all hashes in one process, and converts the parts with near duplicates again without
them. The shards, statistics and kept columns are those of a source without these images. A pass over all images before
the conversion would read the source twice in any case; this one reads again only the parts that change, and a second
time at most. The decision is recorded before any part is converted again, so that an interrupted ingest repeats it:

OUT/.ingest/left-out.json          number of rows left out of each part, once the decision is made
OUT/.ingest/left-out-000012.json   positions of the samples that are left out of part 12
OUT/duplicates.parquet             key of each row left out, key of the row that is kept, their distance
"""

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raysde.data.dataset.duplicates import THREADS, Criterion, Gallery
from raysde.data.dataset.hash_files import FOLDER, ImageHashes, open_hashes, read_hashes
from raysde.data.dataset.manifest import INGESTING, Manifest
from raysde.data.dataset.versions import versioned_name
from raysde.data.ingest.convert import Converted
from raysde.data.ingest.identities import read_identities
from raysde.io.filesystems import child_path, exists, open_filesystem, read_bytes, write_bytes, write_json
from raysde.io.parallel import map_ahead

DECIDED = "left-out.json"
LIST = "duplicates.parquet"
SCHEMA = pa.schema(
    [("key", pa.string()), ("kept", pa.string()), ("kept_in_earlier_version", pa.bool_()), ("distance", pa.float64())]
)
NAMED = 20
"""Number of groups whose keys are in report.json, and of keys of each."""


def read_decision(out: str) -> dict[str, Any] | None:
    """Return the recorded decision; None before there is one.

    Args:
        out: folder or URI of the data set.
    """
    place = child_path(out, INGESTING, DECIDED)
    if not exists(place):
        return None
    found = json.loads(read_bytes(place))
    return {**found, "parts": {int(number): count for number, count in found["parts"].items()}}


def read_left_out(out: str, number: int) -> frozenset[int]:
    """Return the positions of the samples that are left out of part ``number``."""
    return frozenset(json.loads(read_bytes(child_path(out, INGESTING, f"left-out-{number:06d}.json"))))


def decide(parts: Iterable[Converted], out: str, near: Criterion, base: Manifest | None = None) -> dict[str, Any]:
    """Find the near duplicates among converted parts, record which rows are left out, and return the decision.

    Of each group the row of the largest source image is kept, the first in the source of several. A row of an earlier
    version is always kept, and rows that nearly repeat it are left out.

    Args:
        parts: all parts, in the order of the source.
        out: folder or URI of the data set.
        base: version of the data set that the parts are appended to; None for a new data set.

    Raises:
        ValueError: if the hashes of a shard are missing, or a shard of ``base`` is damaged.
        OSError: if the record cannot be written.
    """
    places: list[tuple[int, np.ndarray]] = []
    old = 0 if base is None else len(base.shards)

    def hashes() -> Iterator[ImageHashes]:
        if base is not None:
            yield from map_ahead(lambda number: open_hashes(base, number), range(old), THREADS)
        for number, block in map_ahead(lambda part: (part.number, part_hashes(out, part)), parts, THREADS):
            places.append((number, block.samples))
            yield block

    with tempfile.TemporaryDirectory() as folder:
        gallery = Gallery(hashes(), Path(folder), lambda number: 0 if number < old else 1)
        found = gallery.find(near)
        del gallery
    first = 0 if base is None else base.rows
    keys = _Keys(out, base, places, first)
    dropped = found.dropped & (found.rows >= first)
    rows, kept = found.rows[dropped], found.kept[dropped]
    counts = {}
    for number, samples in keys.by_part(rows):
        counts[number] = len(samples)
        write_json(child_path(out, INGESTING, f"left-out-{number:06d}.json"), samples)
    names = keys.name(np.concatenate([rows, kept]))
    _write_list(out, 1 if base is None else base.version + 1, names, rows, kept, first, found.distances[dropped])
    sizes = Counter(kept.tolist())
    largest = sorted(sizes, key=lambda row: (-sizes[row], row))[:NAMED]
    decision = {
        "threshold": near.threshold,
        "mirrored": near.mirrored,
        "rows": int(dropped.sum()),
        "of_earlier_versions": int((kept < first).sum()),
        "groups": len(sizes),
        "largest": [[names[row], *(names[each] for each in rows[kept == row][:NAMED].tolist())] for row in largest],
        "parts": counts,
    }
    write_json(child_path(out, INGESTING, DECIDED), decision)
    return decision


def part_hashes(out: str, part: Converted) -> ImageHashes:
    """Return the hashes of a part's rows in the order of the source.

    Raises:
        ValueError: if the hashes of a shard are missing or damaged.
    """
    blocks = []
    for shard in part.shards:
        block = read_hashes(out, shard)
        if block is None:
            raise ValueError(
                f"{child_path(out, FOLDER, shard.file)} is missing or damaged; remove {child_path(out, INGESTING)} and "
                "repeat the ingest"
            )
        blocks.append(block)
    joined = ImageHashes.join(blocks)
    return joined.take(np.argsort(joined.samples, kind="stable"))


def remove_stale(out: str, before: Converted, after: Converted) -> None:
    """Delete the shards of an earlier conversion of a part that a later one did not write again, and their hashes."""
    stale = {shard.file for shard in before.shards} - {shard.file for shard in after.shards}
    for file in sorted(stale):
        for place in (child_path(out, file), child_path(out, FOLDER, file)):
            if exists(place):
                system, inside = open_filesystem(place)
                system.delete_file(inside)


class _Keys:
    """Keys and parts of row numbers: rows of the earlier version, then rows of all parts in the order of the source."""

    def __init__(self, out: str, base: Manifest | None, places: list[tuple[int, np.ndarray]], first: int) -> None:
        self.out, self.base, self.places = out, base, places
        self.starts = first + np.cumsum([0, *(len(samples) for _, samples in places)])

    def by_part(self, rows: np.ndarray) -> Iterator[tuple[int, list[int]]]:
        """Yield the number of each part with any of the rows, and the positions of their samples, sorted."""
        parts = np.searchsorted(self.starts, rows, side="right") - 1
        for part in np.unique(parts).tolist():
            number, samples = self.places[part]
            yield number, np.sort(samples[rows[parts == part] - self.starts[part]]).tolist()

    def name(self, rows: np.ndarray) -> dict[int, str]:
        """Return the keys of rows."""
        found: dict[int, str] = {}
        wanted = np.unique(rows)
        new = wanted[wanted >= self.starts[0]]
        parts = np.searchsorted(self.starts, new, side="right") - 1
        for part in np.unique(parts).tolist():
            number, samples = self.places[part]
            here = new[parts == part]
            column = self._part_keys(number, samples)
            found.update(zip(here.tolist(), (column[row - self.starts[part]] for row in here.tolist()), strict=True))
        return found | self._old_keys(wanted[wanted < self.starts[0]])

    def _part_keys(self, number: int, samples: np.ndarray) -> list[str]:
        """Return the keys of a part's rows in the order of the source, that of ``samples``."""
        content = json.loads(read_bytes(child_path(self.out, INGESTING, f"part-{number:06d}.json")))
        blocks = [read_hashes(self.out, shard) for shard in Converted.from_json(content).shards]
        order = np.argsort(np.concatenate([block.samples for block in blocks if block is not None]), kind="stable")
        keys = read_identities(self.out, number).column("key").take(order).to_pylist()
        assert len(keys) == len(samples)
        return list(keys)

    def _old_keys(self, rows: np.ndarray) -> dict[int, str]:
        found: dict[int, str] = {}
        if self.base is not None and len(rows):
            shards = np.searchsorted(self.base.starts, rows, side="right") - 1
            for shard in np.unique(shards).tolist():
                system, inside = open_filesystem(self.base.file(shard))
                with system.open_input_file(inside) as source:
                    column = pq.read_table(source, columns=["key"]).column("key")
                for row in rows[shards == shard].tolist():
                    found[row] = column[row - int(self.base.starts[shard])].as_py()
        return found


def _write_list(
    out: str, version: int, names: dict[int, str], rows: np.ndarray, kept: np.ndarray, first: int, lengths: np.ndarray
) -> None:
    """Write duplicates.parquet: the rows that are left out, by the row that is kept."""
    columns = [[names[row] for row in rows.tolist()], [names[row] for row in kept.tolist()], (kept < first).tolist()]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table([*columns, lengths], schema=SCHEMA), sink, compression="zstd")
    write_bytes(child_path(out, versioned_name(LIST, version)), memoryview(sink.getvalue()))
