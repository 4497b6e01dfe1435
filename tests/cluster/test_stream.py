"""A worker's stream on Ray Data: slices of its own blocks, with bounded look-ahead."""

import threading
import time
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import ray.data

from raysde.cluster import stream as streams
from raysde.cluster.resources import DataShare
from raysde.cluster.stream import read_stream
from raysde.cluster.train import root_cause
from raysde.data.batches.blocks import StreamSpec
from raysde.data.batches.microbatch import read_batches
from raysde.data.batches.plan import Plan
from raysde.data.batches.reference import DataReference
from raysde.data.dataset.layout import Rows
from raysde.data.dataset.manifest import read_manifest
from raysde.data.dataset.reader import Reader
from raysde.data.dataset.split import split_rows
from raysde.data.dataset.view import View
from tests.support.digits import write_digit_shards

pytestmark = pytest.mark.usefixtures("cluster")

ROWS, BATCH, MICRO = 180, 24, 4
SMALL = DataShare(tasks=1, bytes=8.0 * MICRO)
"""With one microbatch per block, a byte per row and two blocks held, a slice has (8 - 2) * 2 / 3 = 4 blocks."""


def spec_of(manifest, view=View(), *, start, stop, block_steps, batch=BATCH):  # noqa: B008
    data = DataReference(path=manifest.path, fingerprint=manifest.fingerprint, view=view,
                         validation=manifest.rows - ROWS, split_seed=1,
                         plan=Plan(rows=ROWS, batch=batch, microbatch=MICRO, seed=1))  # fmt: skip
    return StreamSpec(data=data, start=start, stop=stop, block_steps=block_steps)


@pytest.fixture
def made(monkeypatch) -> list[int]:
    """Return a list to which each slice adds the number of its blocks when it starts."""
    sizes, make = [], streams.make_slice
    monkeypatch.setattr(streams, "make_slice", lambda spec, blocks, share: sizes.append(len(blocks)) or make(spec, blocks, share))  # fmt: skip
    return sizes


def traced(folder, released=None):
    """Return a class of rows that notes each microbatch as a file; with ``released`` it then waits for that file."""

    class Traced(Rows):
        def __getitem__(self, positions: np.ndarray) -> np.ndarray:
            (folder / "-".join(map(str, positions))).touch()
            while released is not None and not released.exists():
                time.sleep(0.05)
            return super().__getitem__(positions)

    return Traced


def settled(folder) -> int:
    """Return the number of noted microbatches once it no longer grows."""
    count, since = -1, time.monotonic()
    while time.monotonic() - since < 1.5:
        found = len(list(folder.iterdir()))
        if found != count:
            count, since = found, time.monotonic()
        time.sleep(0.05)
    return count


def test_worlds_with_a_restart_see_the_plan_once(digits, made):
    """One worker, then three from step 5, then two from step 9: all fields of all microbatches are the bare loop's,
    though tasks end in another order than they began."""
    view = View(shape=(6, 6), crop="random", scale=(0.5, 1.0))
    spec, share = spec_of(digits, view, start=0, stop=12, block_steps=3), DataShare(tasks=3, bytes=60.0 * MICRO)
    seen = []

    class Uneven(Rows):
        def __getitem__(self, positions: np.ndarray) -> np.ndarray:
            time.sleep(0.05 * (positions[0] % 4))
            return super().__getitem__(positions)

    spec = replace(spec, data=replace(spec.data, rows=Uneven))
    for start, stop, world in ((0, 5, 1), (5, 9, 3), (9, 12, 2)):
        for rank in range(world):
            steps = list(islice(read_stream(replace(spec, start=start), 1, rank, world, lambda: share), stop - start))
            assert [{batch.step for batch in step} for step in steps] == [{step} for step in range(start, stop)]
            seen += [batch for step in steps for batch in step]
    assert len(made) > 6  # slices: more than one for each rank
    bare = [batch for step in read_batches(spec.data.open()[0], Reader(digits), 0, 12) for batch in step]
    found = {(batch.step, batch.index): batch for batch in seen}
    assert len(seen) == len(found) == len(bare)
    for twin in bare:
        batch = found[twin.step, twin.index]
        assert np.array_equal(batch.rows, twin.rows)
        assert np.array_equal(batch.images.numpy(), twin.images.numpy())
        assert batch.captions == twin.captions
        assert np.array_equal(batch.labels, twin.labels)


def test_look_ahead_is_bounded_in_a_run_of_any_length(digits, made, tmp_path):
    """A run of 10^9 steps makes at most one and a half slices of blocks, and those that the worker holds."""
    spec = spec_of(digits, start=0, stop=10**9, block_steps=1, batch=2 * MICRO)
    spec = replace(spec, data=replace(spec.data, rows=traced(tmp_path)))
    stream = read_stream(spec, 1, 0, 2, lambda: SMALL)
    for taken in (1, 6, 9):
        steps = next(islice(stream, taken - 1, None))
        assert [batch.index for batch in steps] == [0]
        read = steps[0].step + 1  # one more block is fetched ahead, and one more made slice may hold four
        assert settled(tmp_path) <= read + 6
    assert set(made) == {4}
    stream.close()


def test_a_slow_task_delays_its_own_worker_only(digits, tmp_path):
    """While the first task of rank 0 hangs, rank 1 gets all its steps; rank 0 holds no CPU but that task's."""
    spec = spec_of(digits, start=0, stop=9, block_steps=1, batch=2 * MICRO)
    folder, released = tmp_path / "tasks", tmp_path / "released"
    folder.mkdir()
    slow = replace(spec, data=replace(spec.data, rows=traced(folder, released)))
    got = []
    reader = threading.Thread(target=lambda: got.extend(read_stream(slow, 1, 0, 2, lambda: SMALL)))
    reader.start()
    try:
        while not list(folder.iterdir()):
            time.sleep(0.05)
        assert settled(folder) == 1
        assert [step[0].step for step in read_stream(spec, 1, 1, 2, lambda: SMALL)] == list(range(9))
        assert got == []
        assert len(list(folder.iterdir())) == 1
    finally:
        released.touch()
        reader.join(60)
    assert [step[0].step for step in got] == list(range(9))


def test_the_executor_of_a_full_slice_ends(digits):
    """With its blocks made and no reader, no executor runs: none is left to spin."""
    spec = spec_of(digits, start=0, stop=10**6, block_steps=1, batch=MICRO)
    stream = read_stream(spec, 1, 0, 1, lambda: replace(SMALL, bytes=16.0 * MICRO))
    next(stream)
    deadline = time.monotonic() + 60.0
    while executors() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert executors() == []
    assert next(stream)[0].step == 1
    stream.close()


def executors() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("StreamingExecutor")]


def test_large_blocks_are_not_split(digits, monkeypatch):
    """Blocks beyond Ray Data's size for blocks arrive in one piece."""
    monkeypatch.setattr(ray.data.DataContext.get_current(), "target_max_block_size", 1000)
    spec = spec_of(digits, start=0, stop=40, block_steps=40)  # 160 images of 64 bytes
    assert len(list(read_stream(spec, 1, 0, 1, lambda: SMALL))) == 40


def test_a_stream_at_its_end_is_empty(digits):
    """A worker group that restarts after the last checkpoint requests no steps at all."""
    assert list(read_stream(spec_of(digits, start=11, stop=11, block_steps=3), 1, 0, 1, lambda: SMALL)) == []


def test_a_data_task_names_the_file_that_is_damaged(tmp_path):
    write_digit_shards(tmp_path / "shards")
    manifest = read_manifest(str(tmp_path / "shards"))
    split_rows(manifest, 0, 0)
    harm = tmp_path / "shards" / "train-00001.parquet"
    harm.write_bytes(harm.read_bytes()[:100])
    with pytest.raises(Exception, match="cannot be read") as raised:
        list(read_stream(spec_of(manifest, start=0, stop=9, block_steps=1), 1, 0, 1, lambda: SMALL))
    said = root_cause(Failed(str(raised.value)))
    assert said.startswith("worker 0: ValueError: shard train-00001.parquet of ")
    assert "\n" not in said


class Failed(Exception):
    """An error of Ray Train with the traceback of worker 0."""

    def __init__(self, said: str) -> None:
        self.worker_failures = {0: said}


def test_tasks_run_on_nodes_with_the_labels(digits):
    """A slice asks for nodes with data.nodes, and for all nodes without."""
    spec = spec_of(digits, start=0, stop=2, block_steps=1)
    blocks = list(spec.blocks_of(0, 1))
    labelled = streams.make_slice(spec, blocks, replace(SMALL, nodes=(("raysde", "data"),)))
    assert labelled.context.execution_options.label_selector == {"raysde": "data"}
    assert streams.make_slice(spec, blocks, SMALL).context.execution_options.label_selector is None
