"""Finding and loading a checkpoint: what is read from the storage, by whom, and what stays on the node."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from raysde.checkpoints import checkpoint, loading, node_folders, storage
from raysde.checkpoints.loading import DamagedCheckpointError, open_verified
from raysde.checkpoints.ranges import RangedTensors
from raysde.checkpoints.sharded_tensors import Stored
from raysde.distributed.world import World
from raysde.io.filesystems import open_filesystem
from tests.support.checkpoints import write_model
from tests.support.counted_store import CountedStore, folder_store
from tests.support.paths import ROOT

STEPS = (10, 20, 30)


@pytest.fixture
def store(tmp_path, monkeypatch) -> Iterator[CountedStore]:
    """Yield an object store whose folder ``runs`` has three checkpoints of the run ``small``; the node's temporary
    folder is empty."""
    folder = tmp_path / "bucket" / "runs" / "small"
    folder.mkdir(parents=True)
    for step in STEPS:
        write_model(folder / checkpoint.checkpoint_name(step), step, text=None)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with folder_store(str(tmp_path / "bucket")) as found:
        yield found


def folder_of(tmp_path: Path, step: int) -> Path:
    return tmp_path / "bucket" / "runs" / "small" / checkpoint.checkpoint_name(step)


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def test_the_step_to_resume_from_is_read_from_descriptions_alone(store, tmp_path):
    """One checkpoint.json is read per checkpoint, and no byte of weights, also if a newer one is cut or torn."""
    (folder_of(tmp_path, 30) / "ema.safetensors").write_bytes(b"cut")
    said = []
    found = storage.find_newest_checkpoint(store.uri("runs"), "small", said.append)
    assert (found.step, found.name) == (20, checkpoint.checkpoint_name(20))
    assert len(said) == 1
    assert "ema.safetensors in checkpoint bucket/runs/small/step_000000030 has 3 bytes" in said[0]
    assert {each.key.rpartition("/")[2] for each in store.of("GET")} == {"checkpoint.json"}
    sizes = sum((folder_of(tmp_path, step) / "checkpoint.json").stat().st_size for step in STEPS)
    assert sum(store.read()) == sizes
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_checkpoint_that_was_damaged_at_loading_is_passed_over(store):
    said = []
    faults = {checkpoint.checkpoint_name(30): "weights.safetensors is wrong"}
    assert storage.find_newest_checkpoint(store.uri("runs"), "small", said.append, faults).step == 20
    assert said == [
        "passed over a damaged checkpoint: weights.safetensors is wrong; the newest whole one is step_000000020"
    ]
    every = {checkpoint.checkpoint_name(step): "wrong" for step in STEPS}
    with pytest.raises(ValueError, match=r"no checkpoint in s3://bucket/runs/small.* is whole"):
        storage.find_newest_checkpoint(store.uri("runs"), "small", damaged=every)


class Together(World):
    """A world of threads: its reductions wait for all of them."""

    def __init__(self, rank: int, size: int, barrier: threading.Barrier, flags: list) -> None:
        super().__init__(rank, size)
        object.__setattr__(self, "meet", barrier)
        object.__setattr__(self, "flags", flags)

    def any(self, flag: bool) -> bool:
        self.flags[self.rank] = flag
        self.meet.wait(60)
        found = any(self.flags)
        self.meet.wait(60)
        return found


def on_threads(size: int, work) -> list:
    """Return the results or errors of ``work(world)`` in ``size`` threads, which lock files as processes do."""
    barrier, flags, results = threading.Barrier(size), [False] * size, [None] * size

    def run(rank: int) -> None:
        try:
            results[rank] = work(Together(rank, size, barrier, flags))
        except ValueError as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("slow", [0.0, 0.5])
def test_a_node_downloads_a_checkpoint_once_for_eight_ranks(store, tmp_path, slow):
    """Each byte of the tensors crosses the network once, also if a rank comes late; nothing is left on the node."""
    kept, names = storage.find_newest_checkpoint(store.uri("runs"), "small"), ["ema.safetensors"]
    expected = load_file(folder_of(tmp_path, 30) / "ema.safetensors")

    def load(world: World) -> bool:
        if world.rank == 7:
            time.sleep(slow)
        with open_verified(store.uri("runs"), kept, names, world, False) as files:
            found = Stored([files.open("ema.safetensors")]).all_like({})
        return all(torch.equal(found[name], value) for name, value in expected.items()) and len(found) == len(expected)

    assert on_threads(8, load) == [True] * 8
    assert sum(store.read("ema.safetensors")) == (folder_of(tmp_path, 30) / "ema.safetensors").stat().st_size
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize("far", [True, False])
def test_eight_ranks_verify_once_and_agree_on_the_damage(store, tmp_path, monkeypatch, far):
    """Every rank raises an error that names checkpoint and file, after one download or one reading."""
    flip_byte(folder_of(tmp_path, 30) / "ema.safetensors")
    hashed, plain = [], loading.compare_hashes
    monkeypatch.setattr(loading, "compare_hashes", lambda *given: (hashed.append(given), plain(*given)))
    place = store.uri("runs") if far else str(tmp_path / "bucket" / "runs")
    kept = storage.find_newest_checkpoint(place, "small")

    def load(world: World) -> None:
        with open_verified(place, kept, ["ema.safetensors"], world, False):
            raise AssertionError("a damaged checkpoint was opened")

    for error in on_threads(8, load):
        assert isinstance(error, DamagedCheckpointError)
        assert error.name == checkpoint.checkpoint_name(30)
        assert "ema.safetensors in checkpoint" in error.fault
        assert "does not match its sha256" in error.fault
    assert len(hashed) == (0 if far else 1)
    size = (folder_of(tmp_path, 30) / "ema.safetensors").stat().st_size
    assert sum(store.read("ema.safetensors")) == (size if far else 0)
    assert list((tmp_path / "temporary").iterdir()) == []


HOLDER = """
import sys, time
from raysde.checkpoints.node_folders import shared_folder
def prepare(folder):
    (folder / "big").write_bytes(bytes(1000))
    if sys.argv[1] == "preparing":
        print("in", flush=True)
        time.sleep(600)
with shared_folder("k", prepare):
    print("in", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("when", ["preparing", "using"])
def test_what_a_killed_process_left_on_the_node_is_removed(tmp_path, monkeypatch, when):
    """The next process finds it, prepares the folder anew if the killed one had not finished, and removes it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLDER, when]
    with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "in\n"
        node_folders.remove_abandoned()
        left = [path.name for path in tmp_path.glob("*/big")]
        process.send_signal(signal.SIGKILL)
    assert left == ["big"]  # a living process keeps its folder
    made = []
    with node_folders.shared_folder("other", lambda folder: made.append(folder)):
        assert [path.name for path in tmp_path.iterdir()] == [made[0].name]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_half_prepared_is_prepared_again(tmp_path, monkeypatch):
    """An error while it is prepared leaves it to the next process."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    calls = []

    def fail(folder: Path) -> None:
        calls.append("fail")
        raise OSError("connection reset")

    with ExitStack() as stack:
        with pytest.raises(OSError, match="connection reset"):
            stack.enter_context(node_folders.shared_folder("k", fail))
        for _ in range(2):
            stack.enter_context(node_folders.shared_folder("k", lambda folder: calls.append("prepared")))
    assert calls == ["fail", "prepared"]
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def empty_store(tmp_path) -> Iterator[CountedStore]:
    """Yield an object store of the files that a test writes to its folder."""
    with folder_store(str(tmp_path)) as found:
        yield found


def open_ranged(store: CountedStore) -> RangedTensors:
    system, inside = open_filesystem(store.uri("a.safetensors"))
    return RangedTensors(system.open_input_file(inside), "file a")


def test_rows_are_read_as_ranges(empty_store, tmp_path):
    """The rows of a tensor cost their bytes and no more, beside one request for the header."""
    generator = torch.Generator().manual_seed(0)
    tensors = {f"t{number}": torch.randn(64, 300, generator=generator).to(dtype)
               for number, dtype in enumerate((torch.float32, torch.bfloat16, torch.float64))}  # fmt: skip
    tensors |= {"scalar": torch.tensor(3, dtype=torch.int64), "empty": torch.zeros(0, 4)}
    save_file(tensors, tmp_path / "a.safetensors", {"key": "value"})
    source = open_ranged(empty_store)
    assert source.metadata() == {"key": "value"}
    assert len(empty_store.read()) == 1
    empty_store.requests.clear()
    for name, value in tensors.items():
        assert torch.equal(source.get_tensor(name), value)
        if value.ndim and len(value):
            empty_store.requests.clear()
            assert torch.equal(source.get_slice(name)[5:12], value[5:12])
            assert empty_store.read() == [7 * 300 * value.element_size()]
            assert source.get_slice(name)[64:64].shape == (0, 300)
    stored = Stored([open_ranged(empty_store)], threads=4)
    found = stored.all_like({})
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], value) for name, value in tensors.items())


def test_a_long_header_is_read_whole(empty_store, tmp_path):
    tensors = {f"{'long' * 20}{number}": torch.full((2,), float(number)) for number in range(2000)}
    save_file(tensors, tmp_path / "a.safetensors")
    source = open_ranged(empty_store)
    assert all(torch.equal(source.get_tensor(name), value) for name, value in tensors.items())


@pytest.mark.parametrize(
    "content", [b"", b"\x05", (10**9).to_bytes(8, "little") + b"{}", b"\x02\0\0\0\0\0\0\0[]", "cut"]
)
def test_what_is_no_safetensors_file_is_named(empty_store, tmp_path, content):
    path = tmp_path / "a.safetensors"
    if content == "cut":
        save_file({"t": torch.ones(100)}, path)
        content = path.read_bytes()[:-4]
    path.write_bytes(content)
    with pytest.raises(ValueError, match="file a cannot be read"):
        open_ranged(empty_store)


def test_a_finished_run_is_verified_before_it_is_called_finished(store, tmp_path):
    """A remote file is compared with its hash without a copy of it on the node."""
    kept = storage.find_newest_checkpoint(store.uri("runs"), "small")
    assert storage.is_intact(store.uri("runs"), kept)
    flip_byte(folder_of(tmp_path, 30) / "ema.safetensors")
    assert not storage.is_intact(store.uri("runs"), kept)
    assert not storage.is_intact(str(tmp_path / "bucket" / "runs"),
                                 storage.find_newest_checkpoint(str(tmp_path / "bucket" / "runs"), "small"))  # fmt: skip
    assert list((tmp_path / "temporary").iterdir()) == []
