"""Measure what does not grow with a run: the stream's start, the size of a task, and the CPU of a worker's stream.

    python benchmarks/scale_stream.py [--sections first,bytes,copies,cpu]

Prints rows of a Markdown table: measure, value, bar. The sections start a local Ray cluster of their own. The ratios of
training throughput come from ``benchmarks/throughput.py``: ``--cases short`` for Ray Train against the bare loop, and
``--cases long`` for ``data.stream=ray`` against ``worker`` in a run whose blocks exceed the object store's share.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from PIL import Image

from raysde.cluster.connection import connect
from raysde.cluster.resources import DataShare
from raysde.cluster.stream import blocks_in_slice, read_stream, stream_spec
from raysde.config import loading
from raysde.data.batches.arrow import from_table
from raysde.data.batches.blocks import StreamSpec, make_block
from raysde.data.batches.plan import Plan
from raysde.data.batches.reference import DataReference
from raysde.data.dataset.manifest import SCHEMA, Manifest, write_manifest
from raysde.data.dataset.precomputed import PrecomputedFile, TextEmbeddings
from raysde.data.dataset.shards import write_shard
from raysde.images.codec import encode_image
from raysde.runs.run import Run, open_run

SHARDS = 260_000
"""Shards of the data set whose precomputed text a task refers to."""
PACE, BLOCKS = 1.1, 50
"""Seconds for which the consumer holds each block while CPU is counted, as in the long case of throughput.py, and the
number of those blocks."""
SHARE = 10
"""Blocks that fit the worker's share of the object store meanwhile, as in the long case of throughput.py."""
Row = tuple[str, str, str]


def open_digits(folder: Path) -> Run:
    """Ingest the digits, and return a run of the digits recipe over them."""
    ingest = [sys.executable, "-m", "raysde.cli", "ingest", "sklearn:digits", str(folder / "shards")]
    subprocess.run(ingest, check=True, capture_output=True, timeout=300)
    settings = [f"data.path={folder / 'shards'}", f"storage={folder / 'runs'}"]
    return open_run(loading.load_recipe("digits", settings))


def measure_first_block(run: Run, repeats: int = 7) -> Iterator[Row]:
    """Yield the seconds from the iterator's request to the first block, and their ratio for a long and a short run."""
    share, found = DataShare(tasks=2, bytes=1e9), {1_000: [], 1_000_000: []}  # type: dict[int, list[float]]
    spec = stream_spec(run, 0)
    next(read_stream(spec, 1, 0, 1, lambda: share))  # starts Ray's own actors and the tasks' processes
    for _ in range(repeats):
        for steps, seconds in found.items():
            begin = time.perf_counter()
            stream = read_stream(replace(spec, stop=steps), 1, 0, 1, lambda: share)
            next(stream)
            seconds.append(time.perf_counter() - begin)
            stream.close()  # type: ignore[attr-defined]
            time.sleep(1.0)  # tasks of the slice end
    short, long = (statistics.median(seconds) for seconds in found.values())
    yield "first block of a 1,000-step plan, Ray already up", f"{short:.2f} s", ""
    yield "time to the first block, 1,000,000-step plan / 1,000-step plan", f"{long / short:.2f}", "<= 1.2"


@contextmanager
def count_serialized() -> Iterator[dict[str, list[int]]]:
    """Record the bytes of everything that this process puts, or sends to tasks, by its type; calls of actors, such as
    Ray Data's statistics, do not count."""
    from ray._private.serialization import SerializationContext
    from ray.actor import ActorHandle

    found: dict[str, list[int]] = {}
    serialize, call, in_call = SerializationContext.serialize, ActorHandle._actor_method_call, threading.local()

    def counted(self: SerializationContext, value: Any) -> Any:
        done = serialize(self, value)
        if not getattr(in_call, "now", False):
            found.setdefault(type(value).__name__, []).append(done.total_bytes)
        return done

    def passed_over(self: ActorHandle, *values: Any, **named: Any) -> Any:
        in_call.now = True
        try:
            return call(self, *values, **named)
        finally:
            in_call.now = False

    SerializationContext.serialize, ActorHandle._actor_method_call = counted, passed_over
    try:
        yield found
    finally:
        SerializationContext.serialize, ActorHandle._actor_method_call = serialize, call


def measure_task_bytes(run: Run) -> Iterator[Row]:
    """Yield the bytes that each data task deserialises, with precomputed text beside 260,000 shards."""
    file = PrecomputedFile("train-00000.parquet", 4096, 1 << 28, "0" * 64)
    text = TextEmbeddings(
        path=f"{run.manifest.path}/text-0", encoder="t5", sha256="1" * 64, width=4096, max_tokens=77, dtype="fp16",
        fingerprint=run.manifest.fingerprint, files=(file,) * SHARDS, empty=file,
    )  # fmt: skip
    with_text = stream_spec(replace(run, text=text), 0)
    added = len_pickled(with_text) - len_pickled(stream_spec(run, 0))
    with count_serialized() as found:
        next(read_stream(replace(stream_spec(run, 0), stop=1), 1, 0, 1, lambda: DataShare(tasks=1, bytes=1e9)))
    # of several blocks of a slice, each task gets its own input and context, and the same of everything else
    parts = {name: max(sizes) for name, sizes in found.items()}
    shown = ", ".join(f"{name} {size:,}" for name, size in sorted(parts.items(), key=lambda part: -part[1])[:4])
    yield f"bytes deserialised per data task ({shown})", f"{(sum(parts.values()) + added) / 1e3:.1f} kB", "<= 20 kB"


def len_pickled(value: object) -> int:
    """Return the number of bytes in which Ray sends a value to a task."""
    from ray import cloudpickle

    return len(cloudpickle.dumps(value))


def write_colour_shard(folder: Path) -> Manifest:
    """Write a data set of 64 colour images of 256 x 256 as JPEG."""
    folder.mkdir()
    random, rows = np.random.default_rng(0), []
    for number in range(64):
        tiny = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        image = encode_image(tiny.resize((256, 256), Image.Resampling.BICUBIC), quality=90)
        about = {"captions": ["a picture"], "label": None, "key": str(number), "hash": f"{number:016x}"}
        rows.append({"image": {"bytes": image, "path": None}, "width": 256, "height": 256, **about})
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    shard = write_shard(table, str(folder), "train-00000.parquet", row_group=64, image=(256, 256))
    manifest = Manifest(str(folder), 3, (256, 256), 64, (shard,), captions=64)
    write_manifest(manifest)
    return manifest


def measure_copies(run: Run) -> Iterator[Row]:
    """Yield the number of times that a block's bytes are allocated on their way from the decoder into Ray's object.

    NumPy reports its memory to tracemalloc, and Arrow counts its own. Ray writes the buffers of the finished table into
    shared memory once, where the training process uses them in place.
    """
    manifest = write_colour_shard(Path(run.manifest.path).parent / "colour")
    plan = Plan(rows=64, batch=16, microbatch=16, seed=0)
    data = DataReference(path=manifest.path, fingerprint=manifest.fingerprint, plan=plan)
    spec = StreamSpec(data=data, start=0, stop=4, block_steps=4, row_bytes=3 * 256 * 256)
    block = next(spec.blocks_of(0, 1))
    make_block(spec, block)  # opens the data set and fills its cache
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    table = make_block(spec, block)
    held, decoded = tracemalloc.get_traced_memory()
    decoded += pa.total_allocated_bytes() - before
    tracemalloc.reset_peak()
    sent = ray._private.worker.global_worker.get_serialization_context().serialize(table)
    pickled = tracemalloc.get_traced_memory()[1] - held
    tracemalloc.stop()
    (batch, *_) = from_table(table, 3)
    data_of = table.column("image").chunk(0).buffers()[2]
    is_view = data_of.address <= batch.images.data_ptr() < data_of.address + data_of.size
    size = spec.block_bytes
    yield "memory for a block's pixels in a data task, decoded images / their bytes", f"{decoded / size:.2f}", "1.0"
    yield "further memory when Ray pickles the block / its bytes", f"{pickled / size:.2f}", "0.0"
    yield "bytes that Ray writes into shared memory / the block's bytes", f"{sent.total_bytes / size:.2f}", "1.0"
    yield "copies from shared memory to microbatches", "0" if is_view else "1", "0"


def measure_cpu(run: Run) -> Iterator[Row]:
    """Yield the CPU of a worker's stream in a run whose blocks exceed its share of the object store."""
    spec = replace(stream_spec(run, 0), stop=10**6, block_steps=1)
    share = DataShare(tasks=1, bytes=SHARE * spec.block_bytes)
    stream = read_stream(spec, 1, 0, 1, lambda: share)
    for _ in range(8):
        next(stream)
    begin, before = time.perf_counter(), used_cpu()
    for _ in range(BLOCKS):
        next(stream)
        time.sleep(PACE)
    seconds, cpu = time.perf_counter() - begin, used_cpu() - before
    stream.close()  # type: ignore[attr-defined]
    size = blocks_in_slice(share, spec.block_bytes, 2)
    yield f"CPU of a worker's stream per block, in slices of {size} blocks", f"{1e3 * cpu / BLOCKS:.1f} ms", ""
    yield f"CPU of a worker's stream, a block every {PACE:g} s", f"{100 * cpu / seconds:.1f}% of a core", "<= 3%"


def used_cpu() -> float:
    """Return the CPU seconds of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


SECTIONS: dict[str, Callable[[Run], Iterator[Row]]] = {
    "first": measure_first_block,
    "bytes": measure_task_bytes,
    "copies": measure_copies,
    "cpu": measure_cpu,
}


def print_sections(names: list[str]) -> None:
    """Print a row of each measure of some sections, on a local Ray cluster."""
    with tempfile.TemporaryDirectory(prefix="raysde-bench-") as folder:
        run = open_digits(Path(folder))
        connect()
        print("| measure | value | bar |\n|---|---|---|")
        for name in names:
            for measure, value, bar in SECTIONS[name](run):
                print(f"| {measure} | {value} | {bar} |", flush=True)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--sections", default=",".join(SECTIONS))
    print_sections(arguments.parse_args().sections.split(","))


if __name__ == "__main__":
    main()
