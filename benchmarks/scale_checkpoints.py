"""Measure the checkpoint path: downloads on resume, counted at an S3 server, and training beside a slow upload.

    python benchmarks/scale_checkpoints.py [--section downloads,throughput] [--short]

Downloads: eight processes of one node load a checkpoint as the ranks of a worker group do. The server counts the bytes
that it sends; one download is the bytes of the files that a rank loads. What is left is counted in the node's temporary
folder.

Throughput: the training step of a transformer alternates between blocks of 50 steps without saving and blocks that
begin with a checkpoint. The storage takes 20 MB/s by sleeping. The ratio is the median over repeats. With --short, a
block has a tenth of the steps and the state a tenth of the bytes.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.counted_store import moto_store

RANKS = 8
RATE = 20e6
"""Bytes per second that the slow storage takes."""
STEPS, STATE, BATCH = 50, 500e6, 32
"""Steps in a block, bytes of the state, and images in a batch, which makes a step of at least 1 s on two cores."""
BLOCK = 18 * 512 * 512 * 16
"""Bytes of state of a block of the transformer: weights, averages and two moments in float32."""
Row = tuple[str, str, str]


def format_rows(rows: list[Row]) -> str:
    """Return rows of measure, value and bar as a markdown table."""
    return "\n".join(f"| {measure} | {value} | {bar} |" for measure, value, bar in [("measure", "value", "bar"),
                                                                                    ("---",) * 3, *rows])  # fmt: skip


# the run whose state is saved


def open_small_run(folder: Path, blocks: int) -> Any:
    """Return a run on digits with a transformer of ``blocks`` blocks of width 512."""
    from raysde.config import loading
    from raysde.data.dataset.manifest import read_manifest
    from raysde.runs.run import open_run
    from tests.support.digits import write_digit_shards

    if not (folder / "shards").exists():
        write_digit_shards(folder / "shards")
    tree = {
        "name": "small", "storage": str(folder / "runs"), "data": {"path": read_manifest(str(folder / "shards")).path},
        "network": {"kind": "dit", "channels": 512, "heads": 8, "blocks": blocks},
        "train": {"length": {"steps": 10_000}, "batch": BATCH}, "validation": {"rows": 0}, "keep_checkpoints": 1,
    }  # fmt: skip
    return open_run(loading.parse_recipe(tree))


# downloads


def load_as_rank(rank: int, place: str, folder: str, port: int) -> None:
    """Load the newest checkpoint as one of a node's ranks."""
    from raysde.checkpoints import storage
    from raysde.distributed.world import current_world
    from raysde.runs.build import new_state
    from raysde.runs.resume import resume_run

    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(RANKS), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo")
    run, world = open_small_run(Path(folder), 1), current_world()
    run = replace(run, config=run.config.model_copy(update={"storage": place}))
    state = new_state(run, torch.device("cpu"))
    found = storage.find_newest_checkpoint(place, "small")
    assert found is not None
    resume_run(run, state, found, world)
    assert state.step == 7
    dist.destroy_process_group()


def measure_downloads() -> list[Row]:
    """Return downloads per node and copies left over when eight ranks resume from S3."""
    from raysde.checkpoints import storage, writing
    from raysde.checkpoints.staging import stage_checkpoint
    from raysde.distributed.world import World
    from raysde.runs.build import new_state
    from raysde.runs.hooks import describe_run

    with tempfile.TemporaryDirectory() as scratch, moto_store() as store:
        folder = Path(scratch)
        (folder / "node").mkdir()
        place = store.uri("runs")
        run = open_small_run(folder, 1)
        state = new_state(run, torch.device("cpu"))
        state.step = 7
        target = storage.child_path(place, "small", "step_000000007")
        writing.write_staged(target, stage_checkpoint(state, World()), describe_run(run), World())
        store.requests.clear()
        os.environ["TMPDIR"] = str(folder / "node")
        try:
            with free_port() as free:
                mp.start_processes(load_as_rank, (place, str(folder), free), nprocs=RANKS, start_method="spawn")
        finally:
            del os.environ["TMPDIR"]
        found = storage.find_newest_checkpoint(place, "small")
        assert found is not None
        assert found.description is not None
        sizes = {name: size for name, size in found.description.sizes.items() if name.endswith(".safetensors")}
        sent = sum(store.read(".safetensors"))
        left = [path for path in (folder / "node").iterdir() if path.name.startswith("raysde-")]
    total = sum(sizes.values())
    return [
        (f"checkpoint downloads per node on resume, {RANKS} ranks ({total / 1e6:.0f} MB)", f"{sent / total:.2f}", "1"),
        ("copies left over", str(len(left)), "0"),
    ]


@contextmanager
def free_port() -> Iterator[int]:
    """Yield a free port."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    yield port


# throughput


class SlowFile:
    """An open file that takes ``RATE`` bytes per second by sleeping."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def write(self, content: bytes) -> int:
        time.sleep(len(content) / RATE)
        self.inner.write(content)
        return len(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class SlowStorage(pafs.FileSystemHandler):
    """A storage that forgets the content of tensor files, since the disk is not part of the measurement."""

    def __init__(self, folder: str) -> None:
        self.inner = pafs.SubTreeFileSystem(folder, pafs.LocalFileSystem())

    def get_type_name(self) -> str:
        return "s3"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> Any:
        return self.inner.get_file_info(paths)

    def get_file_info_selector(self, selector: Any) -> Any:
        return self.inner.get_file_info(selector)

    def create_dir(self, path: str, recursive: bool) -> None:
        self.inner.create_dir(path, recursive=recursive)

    def delete_dir(self, path: str) -> None:
        self.inner.delete_dir(path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool) -> None:
        self.inner.delete_dir_contents(path, missing_dir_ok=missing_dir_ok)

    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError

    def delete_file(self, path: str) -> None:
        self.inner.delete_file(path)

    def move(self, source: str, target: str) -> None:
        self.inner.move(source, target)

    def copy_file(self, source: str, target: str) -> None:
        self.inner.copy_file(source, target)

    def open_input_stream(self, path: str) -> Any:
        return self.inner.open_input_stream(path)

    def open_input_file(self, path: str) -> Any:
        return self.inner.open_input_file(path)

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        return pa.PythonFile(SlowFile(self.inner.open_output_stream(path)), mode="w")

    def open_append_stream(self, path: str, metadata: Any) -> Any:
        raise NotImplementedError


def measure_throughput(*, short: bool = False, repeats: int = 3) -> list[Row]:
    """Return training throughput while saving to a slow storage, relative to training without saving."""
    from raysde.checkpoints import storage
    from raysde.data.batches.microbatch import read_batches
    from raysde.data.dataset.reader import Reader
    from raysde.distributed.world import World
    from raysde.runs.build import make_objective, make_schedule, new_state
    from raysde.runs.saving import Saver
    from raysde.training.loop import train_step

    part = 10 if short else 1
    steps, blocks = STEPS // part, max(1, round(STATE / part / BLOCK))
    with tempfile.TemporaryDirectory() as scratch:
        run = open_small_run(Path(scratch), blocks)
        system, plain = pafs.PyFileSystem(SlowStorage(scratch)), storage.open_filesystem
        run = replace(run, config=run.config.model_copy(update={"storage": "slow://runs"}))
        storage.open_filesystem = lambda path: (system, path.removeprefix("slow://"))  # type: ignore[assignment]
        try:
            state = new_state(run, torch.device("cpu"))
            batches = next(read_batches(run.feed, Reader(run.manifest), 0, 1))
            task, schedule, world = make_objective(run), make_schedule(run), World()

            def block() -> float:
                begin = time.perf_counter()
                for _ in range(steps):
                    train_step(state, state.model, batches, task, schedule, world)
                    state.pending.clear()
                return time.perf_counter() - begin

            for _ in range(2):
                train_step(state, state.model, batches, task, schedule, world)
            ratios, seconds, copies, exposed = [], [], [], []
            cpu: dict[str, float] = {"quiet": 0.0, "saving": 0.0}
            with Saver(run, state, world) as saver:
                saver.save(state)  # the first checkpoint also pays for the memory of the copies
                saver.writer.wait()
                for _ in range(repeats):
                    used = time.process_time()
                    quiet = block()
                    cpu["quiet"] += time.process_time() - used
                    used, begin = time.process_time(), time.perf_counter()
                    saver.save(state)
                    copies.append(time.perf_counter() - begin)
                    saving = copies[-1] + block()
                    begin = time.perf_counter()
                    saver.writer.wait()
                    exposed.append(time.perf_counter() - begin)
                    cpu["saving"] += time.process_time() - used
                    ratios.append(quiet / (saving + exposed[-1]))
                    seconds.append(quiet / steps)
        finally:
            storage.open_filesystem = plain
        size = sum(value.numel() * value.element_size() for value in [
            *state.model.state_dict().values(), *state.ema.average.values(), *state.optimizer_tensors().values()
        ])  # fmt: skip
    each = statistics.median(seconds)
    what = (
        f"training throughput while saving {size / 1e6:.0f} MB every {steps} steps of {each:.2f} s "
        f"to a storage of {RATE / 1e6:.0f} MB/s / without saving"
    )
    return [
        (what, f"{statistics.median(ratios):.3f}", "0.9"),
        ("seconds that a step waits for the copy; that the next save would wait", f"{statistics.median(copies):.2f}; "
         f"{statistics.median(exposed):.2f}", ""),
        ("CPU seconds with saving / without", f"{cpu['saving'] / cpu['quiet']:.3f}", ""),
    ]  # fmt: skip


SECTIONS = {"downloads": lambda short: measure_downloads(), "throughput": lambda short: measure_throughput(short=short)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--section", default=",".join(SECTIONS), help="sections, separated by commas")
    parser.add_argument("--short", action="store_true", help="a tenth of the steps and bytes")
    args = parser.parse_args()
    rows = [row for name in args.section.split(",") for row in SECTIONS[name](args.short)]
    print(format_rows(rows))


if __name__ == "__main__":
    main()
