"""Metadata of a data set of 260,000 shards: seconds and memory to open it, and requests to verify it.

    python benchmarks/scale_metadata.py

The data set is a manifest without its shards. Its memory is what a process has for itself: two processes have it open,
so that pages of the mapped file count as shared, as they are among the processes of a node.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from raysde.data.dataset.manifest import Manifest, read_manifest, write_manifest
from raysde.data.dataset.shard_table import Shard
from raysde.data.dataset.verify import verify_listing
from tests.support.counted_store import CountedStore, Objects, etag_of

SHARDS = 260_000
HEAD = ("measure", "value", "bar")


def make_manifest(folder: str, count: int = SHARDS) -> Manifest:
    """Write the manifest of a data set with ``count`` shards of 4,096 rows that do not exist."""
    hashes = np.random.default_rng(0).bytes(32 * count)
    shards = [
        Shard(
            name := f"train-{number:06d}.parquet",
            4096,
            100_000_000,
            hashes[32 * number : 32 * number + 32].hex(),
            image=(256, 256),
            etag=etag_of(f"photos/{name}"),
        )
        for number in range(count)
    ]
    names = tuple(map(str, range(1000)))
    manifest = Manifest(folder, 3, (256, 256), 64, shards, names, captions=4096 * count)  # type: ignore[arg-type]
    write_manifest(manifest)
    return manifest


def own_megabytes() -> float:
    """Return the memory of this process that it shares with no other, in MB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    found = {line.split(":")[0]: line.split()[1] for line in lines[1:]}
    return sum(int(found[name]) for name in ("Private_Clean", "Private_Dirty")) / 1024


def open_once(small: str, folder: str) -> None:
    """Open ``small``, so that libraries are loaded, then ``folder``; print seconds and MB, and keep it open."""
    read_manifest(small).layouts("train")
    before, began = own_megabytes(), time.perf_counter()
    manifest = read_manifest(folder)
    known = (manifest.fingerprint, manifest.rows, manifest.layouts("train"), manifest.shapes)
    seconds = time.perf_counter() - began
    print("open", flush=True)
    sys.stdin.readline()
    print(seconds, own_megabytes() - before, known[1], flush=True)
    sys.stdin.readline()


def measure_opening(folder: str) -> tuple[float, float]:
    """Return seconds and MB not shared of a process that opens a data set which another process has open."""
    with tempfile.TemporaryDirectory() as small:
        make_manifest(small, 2)
        command = [sys.executable, __file__, "open", small, folder]
        both = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        for process in both:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
        found = []
        for process in both:
            said, _ = ask(process)
            found.append([float(value) for value in said.split()])
        for process in both:
            process.communicate("\n")
    return max(each[0] for each in found), max(each[1] for each in found)


def ask(process: subprocess.Popen) -> tuple[str, int]:
    """Let a process print its next line, and return it with the process's number."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline(), process.pid


def count_requests(manifest: Manifest) -> int:
    """Return the requests that verify a data set by its listing, on a store with other objects beside it."""
    others = ["photos/manifest.json", "photos/report.json", "photos/shards.arrow"]
    objects = Objects([*(f"photos/{name}" for name in manifest.shards.files.to_pylist()), *others], 100_000_000)
    with CountedStore(objects) as store:
        there = {**vars_of(manifest), "path": store.uri("photos"), "etags_of": "s3://bucket/photos"}
        assert verify_listing(Manifest(**there)) == []
    return len(store.requests)


def vars_of(manifest: Manifest) -> dict:
    """Return the fields of a manifest without what it computed from them."""
    return {name: getattr(manifest, name) for name in type(manifest).__dataclass_fields__}


def rows() -> list[tuple[str, str, str]]:
    """Return the measures of this benchmark: name, value and bar."""
    os.environ.setdefault("AWS_ACCESS_KEY_ID", "key")
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "secret")
    with tempfile.TemporaryDirectory() as folder:
        manifest = make_manifest(folder)
        os.sync()  # pages that are not written yet would count as the process's own
        seconds, megabytes = measure_opening(folder)
        requests = count_requests(manifest)
    return [
        (f"open a data set of {SHARDS:,} shards: seconds", f"{seconds:.2f}", "≤ 1.5"),
        (f"open a data set of {SHARDS:,} shards: MB not shared, per process", f"{megabytes:.1f}", "≤ 40"),
        (f"requests to verify {SHARDS:,} shards before a run", str(requests), "≤ 600"),
    ]


def markdown() -> list[str]:
    """Return the measures as the lines of a markdown table."""
    table = [HEAD, ("---",) * len(HEAD), *rows()]
    return ["| " + " | ".join(row) + " |" for row in table]


if __name__ == "__main__":
    if sys.argv[1:2] == ["open"]:
        open_once(*sys.argv[2:])
    else:
        print("\n".join(markdown()))
