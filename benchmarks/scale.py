"""Counted figures of raysde on large clusters: bytes, requests and memory, not seconds.

Run ``python benchmarks/scale.py`` for all sections, or ``python benchmarks/scale.py reading`` for one. Each section
prints a Markdown table of measures, values and bars. The command fails if a value of the reading section misses its
bar, or a section fails.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from raysde.data.batches.feed import Feed
from raysde.data.batches.mixed_plan import SourceSize, plan_sources
from raysde.data.batches.plan import LANED, Plan
from raysde.data.dataset.layout import AlignedRows, Rows
from raysde.data.dataset.manifest import SCHEMA, Manifest
from raysde.data.dataset.reader import Reader
from raysde.data.dataset.segments import Segments, segment_lengths
from raysde.data.dataset.selection import Selection, count_before_groups
from raysde.data.dataset.shard_table import Shard
from raysde.data.dataset.shards import write_shard
from raysde.data.dataset.source_rows import MixedRows, split_source
from raysde.data.dataset.sources import AnyReader, Source, SourcesReader, merge_manifests
from raysde.data.dataset.split import filtered_window, lane_window, split_rows
from tests.support.counted_store import folder_store


@dataclass(frozen=True)
class Figure:
    """A line of a table.

    Attributes:
        measure: what was counted, and in which setting.
        value: the count.
        bar: bound of the value; None for a value that is only shown.
        least: True if the bar is the least value, False if it is the largest.
    """

    measure: str
    value: float
    bar: float | None = None
    least: bool = False

    @property
    def holds(self) -> bool:
        """True if the value keeps its bar."""
        return self.bar is None or (self.value >= self.bar if self.least else self.value <= self.bar)

    def line(self) -> str:
        """Return the line of the Markdown table."""
        bar = "" if self.bar is None else f"{'≥' if self.least else '≤'} {self.bar:g}"
        return f"| {self.measure} | {self.value:.4g} | {bar}{'' if self.holds else ' (missed)'} |"


# --- reading ----------------------------------------------------------------------------------------------------------

BATCH, SHARD_ROWS = 2048, 3840


@dataclass(frozen=True)
class Setting:
    """Readers of a data set of equal shards, of which one exists and stands for all.

    Attributes:
        name: name of the setting in the table.
        image: mean bytes of an encoded image.
        group: number of rows in a row group.
        microbatch: number of rows in a microbatch.
        shards: number of shards.
        processes: number of processes that make blocks.
        segments: number of segments of the plan that are read.
        bar: bound of the bytes read, as a multiple of the bytes of the images used.
        share: share of the rows that a filter selects, at random; the bytes read count times this share, since a row
            group is read whole.
        shares: shares of several such data sets that are mixed; empty for one data set.
    """

    name: str
    image: int
    group: int
    microbatch: int
    shards: int
    processes: int
    segments: int
    bar: float
    share: float = 1.0
    shares: tuple[int, ...] = ()


SETTINGS = [
    Setting("256 px 25 KB, 1 worker, 1 process", 25_000, 64, 16, 260, 1, 1, 1.5),
    Setting("256 px 25 KB, 8 workers, 32 processes", 25_000, 64, 16, 260, 32, 1, 2.0),
    Setting("256 px 25 KB, 128 workers, 1,024 processes", 25_000, 64, 16, 260, 1024, 1, 2.5),
    Setting("256 px 25 KB, 128 workers, 1,024 processes, 10^8 images", 25_000, 64, 16, 26_042, 1024, 1, 2.5),
    Setting("512 px 200 KB, 128 workers, 1,024 processes", 200_000, 8, 16, 260, 1024, 2, 2.5),
    Setting("256 px 25 KB, 8 workers, 32 processes, a filter of 30%", 25_000, 64, 16, 260, 32, 1, 2.0, 0.3),
    Setting("256 px 25 KB, 8 workers, 32 processes, a filter of 90%", 25_000, 64, 16, 260, 32, 1, 2.0, 0.9),
    Setting("256 px 25 KB, 1,024 processes, two data sets 7 : 3", 25_000, 64, 16, 260, 1024, 1, 2.5, shares=(7, 3)),
]


def reading() -> Iterator[Figure]:
    """Yield bytes and requests of the reader for the pixels of a run, and the row groups that a batch mixes."""
    for setting in SETTINGS:
        yield from count_reads(setting)
    for microbatch in (16, 32, 64):
        for image, group in ((25_000, 64), (200_000, 8)):
            _, plan, rows = plan_of(image, group, microbatch, 260)
            batches = [
                np.concatenate([rows[plan.rows_of(step, index)] for index in range(plan.microbatches)])
                for step in range(0, 400, 37)
            ]
            mixed = min(len(np.unique(batch // group)) for batch in batches)
            yield Figure(
                f"row groups in a batch of {BATCH}, microbatch {microbatch}, {image // 1000} KB", mixed, 500, True
            )
    manifest, _, _ = plan_of(25_000, 64, 16, 260)
    feed = mix_feed(manifest, (7, 3), 16)
    batches = [
        np.concatenate([feed.rows[feed.plan.rows_of(step, index)] for index in range(feed.plan.microbatches)])
        for step in range(0, 400, 37)
    ]
    mixed = min(len(np.unique(batch // 64)) for batch in batches)
    yield Figure(f"row groups in a batch of {BATCH} of two data sets, microbatch 16, 25 KB", mixed, 500, True)


def plan_of(image: int, group: int, microbatch: int, shards: int, share: float = 1.0) -> tuple[Manifest, Plan, Rows]:
    """Return manifest, plan and rows of a data set of equal shards, of which a filter selects a share at random."""
    each = SHARD_ROWS * image
    entries = tuple(
        Shard(f"train-{n:05d}.parquet", SHARD_ROWS, each, hashlib.sha256(str(n).encode()).hexdigest(), image=(8, 8))
        for n in range(shards)
    )
    manifest = Manifest("store", 3, (8, 8), group, entries)
    if share < 1.0:
        bits = np.packbits(np.random.default_rng(2).random(manifest.rows) < share, bitorder="little")
        rows, _ = split_rows(manifest, 0, 0, Selection(bits, count_before_groups(manifest, bits)))
        window, chunk = filtered_window(manifest, rows, BATCH, microbatch, None)
    else:
        rows, _ = split_rows(manifest, 0, 0)
        rows = AlignedRows(rows.layouts, rows.held)
        window, chunk = lane_window(manifest, rows.count, BATCH, microbatch, None), group
    plan = Plan(
        rows=rows.count, batch=BATCH, microbatch=microbatch, seed=0, window=window, chunk=chunk, order=LANED
    )  # fmt: skip
    return manifest, plan, rows


def mix_feed(manifest: Manifest, shares: tuple[int, ...], microbatch: int) -> Feed:
    """Return the microbatches of a mixture of equal data sets."""
    parts = tuple(split_source(manifest, None, 0, 0)[0] for _ in shares)
    sizes = [SourceSize(part.count, manifest.bytes / manifest.rows, manifest.row_group) for part in parts]
    starts = tuple(number * manifest.rows for number in range(len(shares)))
    return Feed(plan_sources(sizes, shares, BATCH, microbatch, 0, None), MixedRows(parts, starts))


def open_setting(setting: Setting, manifest: Manifest) -> AnyReader:
    """Return a process's reader of a setting."""
    if not setting.shares:
        return Reader(manifest)
    sources = [Source(manifest) for _ in setting.shares]
    return SourcesReader(sources, merge_manifests(sources))


def count_cached(reader: AnyReader) -> int:
    """Return the bytes of encoded row groups that a reader keeps."""
    return sum(each.groups.bytes for each in (reader.readers if isinstance(reader, SourcesReader) else (reader,)))


def count_reads(setting: Setting) -> Iterator[Figure]:
    """Yield the figures of one setting: its blocks are read by processes that are drawn at random."""
    manifest, plan, rows = plan_of(setting.image, setting.group, setting.microbatch, setting.shards, setting.share)
    with tempfile.TemporaryDirectory(prefix="raysde-scale-") as folder:
        sizes = write_one_shard(Path(folder), setting)
        lengths = np.asarray(segment_lengths(f"{folder}/one.parquet"), dtype=np.uint32)
        segments = Segments(np.full(setting.shards, len(lengths)), np.tile(lengths, setting.shards))
        generator = np.random.default_rng(0)
        first = int(generator.integers(1000))
        used = groups = peak = 0
        readers: dict[int, AnyReader] = {}
        feed = mix_feed(manifest, setting.shares, setting.microbatch) if setting.shares else Feed(plan, rows)
        steps = feed.plan.segment
        pool = pa.proxy_memory_pool(pa.system_memory_pool())
        with (
            use_pool(pool),
            folder_store(lambda key: Path(folder) / "one.parquet") as store,
            mock.patch("raysde.data.dataset.reader.open_segments", return_value=segments),
            mock.patch("raysde.data.dataset.reader.decode_image"),
        ):
            for segment in range(first, first + setting.segments):
                for index in range(plan.microbatches):
                    process = int(generator.integers(setting.processes))
                    reader = readers.setdefault(
                        process, open_setting(setting, replace(manifest, path=store.uri("shards")))
                    )
                    block = []
                    for step in range(segment * steps, (segment + 1) * steps):
                        chosen, _ = feed.read(reader, step, index)
                        block.append(chosen)
                    found = np.concatenate(block)
                    used += int(sizes[found % SHARD_ROWS].sum())
                    groups += len(np.unique(found // setting.group))
                    peak = max(peak, count_cached(reader))
        del readers, reader  # before the pool of their memory
    reads = store.read()
    times = "" if setting.share == 1.0 else f" times {setting.share:g}"
    ratio = setting.share * sum(reads) / used
    yield Figure(f"bytes read{times} ÷ bytes of the images used: {setting.name}", ratio, setting.bar)
    yield Figure(f"mean bytes of a GET: {setting.name}", float(np.mean(reads)), 1e6, least=True)
    most = 1.2 if setting.share == 1.0 else None  # chunks of filtered rows cut row groups
    yield Figure(f"requests, GET and HEAD, ÷ row groups: {setting.name}", len(store.requests) / groups, most)
    yield Figure(f"GETs ÷ row groups: {setting.name}", len(reads) / groups)
    yield Figure(f"cached bytes of a process: {setting.name}", peak, 256e6)
    if setting.processes == 1:
        yield Figure(f"most bytes that Arrow allocates at once: {setting.name}", pool.max_memory() or 0, 256e6)


@contextmanager
def use_pool(pool: pa.MemoryPool) -> Iterator[None]:
    """Let Arrow allocate from ``pool``, which counts."""
    before = pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        yield
    finally:
        pa.set_memory_pool(before)


def write_one_shard(folder: Path, setting: Setting) -> np.ndarray:
    """Write a shard of random bytes in place of images, and return the bytes of each, int64 [rows]."""
    generator = np.random.default_rng(1)
    sizes = np.maximum(1000, generator.lognormal(np.log(setting.image) - 0.045, 0.3, SHARD_ROWS)).astype(np.int64)
    rows = [
        {
            "image": {"bytes": generator.bytes(size), "path": None},
            "captions": [f"a picture of the number {row} among others"],
            "label": None,
            "key": f"{row:06d}.jpg",
            "width": 8,
            "height": 8,
            "hash": f"{row:016x}",
        }
        for row, size in enumerate(sizes.tolist())
    ]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    write_shard(table, str(folder), "one.parquet", row_group=setting.group, image=(8, 8))
    return sizes


SECTIONS: dict[str, Callable[[], Iterator[Figure]]] = {"reading": reading}
"""Sections by name; each yields the lines of its table."""
SCRIPTS = ("metadata", "stream", "checkpoints", "leaving", "model")
"""Sections that are scripts of their own, ``benchmarks/scale_NAME.py``, since some of them start Ray or servers."""


def main() -> int:
    """Print the tables of the chosen sections; return 1 if a value misses its bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = [*SECTIONS, *SCRIPTS]
    parser.add_argument("sections", nargs="*", choices=[[], *names], help="sections to run; default: all")
    missed = 0
    for name in parser.parse_args().sections or names:
        print(f"\n## {name}\n", flush=True)
        if name in SCRIPTS:
            script = Path(__file__).with_name(f"scale_{name}.py")
            missed += subprocess.run([sys.executable, str(script)], check=False).returncode != 0
            continue
        print("| measure | value | bar |\n|---|---|---|")
        for figure in SECTIONS[name]():
            print(figure.line(), flush=True)
            missed += not figure.holds
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
