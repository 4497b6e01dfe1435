"""The training stream without a cluster: blocks as its tasks make them, and as each worker regroups them."""

import pickle
import subprocess
import sys
from dataclasses import replace
from itertools import islice

import numpy as np
import pyarrow as pa
import pytest

from raysde.cluster.stream import steps_in_block
from raysde.data.batches import tables
from raysde.data.batches.arrow import from_table
from raysde.data.batches.blocks import Block, StreamSpec, group_by_step, make_block
from raysde.data.batches.microbatch import read_batches
from raysde.data.batches.plan import Plan
from raysde.data.batches.reference import DataReference
from raysde.data.batches.tables import lend_memory
from raysde.data.dataset.reader import Reader
from raysde.data.dataset.view import View
from tests.support.memory import peak_bytes

START, STOP, STEPS = 4, 11, 3


@pytest.fixture(scope="module")
def spec(digits) -> StreamSpec:
    """Return a stream with six microbatches per step, whose segments have 1, 1, 3 and 2 steps."""
    view = View(shape=(6, 6), crop="random", scale=(0.5, 1.0))
    data = DataReference(path=digits.path, fingerprint=digits.fingerprint, view=view, validation=digits.rows - 180,
                         plan=Plan(rows=180, batch=24, microbatch=4, seed=1), split_seed=1)  # fmt: skip
    return StreamSpec(data=data, start=START, stop=STOP, block_steps=STEPS)


@pytest.fixture(scope="module")
def blocks(spec) -> dict[Block, pa.Table]:
    return {block: make_block(spec, block) for block in spec.blocks_of(0, 1)}


def sent(spec, blocks, rank, world):
    return [list(from_table(blocks[block], 1)) for block in spec.blocks_of(rank, world)]


@pytest.mark.parametrize("world", [1, 2, 3, 4, 6])
def test_blocks_hold_each_microbatch_of_each_step_once(spec, world):
    """All ranks together ask for every microbatch of every step once, each for those of the bare loop."""
    held = [
        (step, block.index)
        for rank in range(world)
        for block in spec.blocks_of(rank, world)
        for step in range(block.first, block.stop)
    ]
    assert sorted(held) == [(step, index) for step in range(START, STOP) for index in range(6)]
    for rank in range(world):
        assert {block.index for block in spec.blocks_of(rank, world)} == set(spec.plan.of_rank(rank, world))


def test_the_memory_of_a_block_is_used_again_once_nothing_refers_to_it(spec):
    """A block's pixels stay as they are while its table, a column of it or a tensor made from it lives; later blocks
    then take other memory. Afterwards the next block takes the same memory."""
    first, second, *_ = spec.blocks_of(0, 1)

    def place(table):
        return table.column("image").chunk(0).buffers()[2].address

    table = make_block(spec, first)
    address, (batch,) = place(table), list(from_table(table, 1))
    pixels, column = batch.images.clone(), table.column("image")
    for holder in ("table", "column", "images"):
        other = make_block(spec, second)
        assert place(other) != address, holder
        assert batch.images.equal(pixels)
        del other
        if holder == "table":
            del table
        if holder == "column":
            del column
    del batch
    assert len({place(make_block(spec, second)) for _ in range(5)}) == 1


def test_blocks_are_made_without_torch(spec):
    """Its import takes longer than anything else that a data task loads, and keeps memory in every process."""
    script = (
        "import pickle, sys\n"
        "from raysde.data.batches.blocks import make_block\n"
        "spec = pickle.load(sys.stdin.buffer)\n"
        "make_block(spec, next(iter(spec.blocks_of(0, 1))))\n"
        "print([name for name in ('torch', 'ray', 'mlflow') if name in sys.modules])\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], input=pickle.dumps(spec), capture_output=True, timeout=120, check=True
    )
    assert ended.stdout == b"[]\n"


def test_a_larger_block_takes_larger_memory():
    lend_memory(10)[:] = 1
    assert len(lend_memory(10_000_000)) == 10_000_000
    assert len(lend_memory(20_000_000)) == 20_000_000


def test_segments_begin_short_and_are_cut_at_multiples(spec):
    """The first ones double in length, and none crosses a multiple of the steps per segment."""
    assert list(spec.segments()) == [(4, 5), (5, 6), (6, 9), (9, 11)]
    assert list(replace(spec, start=6).segments()) == [(6, 7), (7, 9), (9, 11)]
    assert list(replace(spec, start=0, stop=64, block_steps=16).segments()) == [
        (0, 1), (1, 3), (3, 7), (7, 15), (15, 16), (16, 32), (32, 48), (48, 64),
    ]  # fmt: skip
    assert list(replace(spec, start=STOP).segments()) == []


def test_a_million_steps_are_not_counted_beforehand(spec):
    """The first blocks of a long run are known at once, and the specification is no larger than that of a short one."""
    long = replace(spec, stop=10**12)
    assert list(islice(long.blocks_of(0, 1), 6)) == list(islice(spec.blocks_of(0, 1), 6))
    assert len(pickle.dumps(long)) - len(pickle.dumps(spec)) < 16


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_each_rank_gets_its_microbatches_step_by_step(digits, spec, blocks, world):
    """Microbatches equal those of the bare loop for any number of workers, also if ranks have unequal shares."""
    whole = {
        (one.step, one.index): one
        for step in read_batches(spec.data.open()[0], Reader(digits), START, STOP)
        for one in step
    }
    for rank in range(world):
        steps = list(group_by_step(iter(sent(spec, blocks, rank, world)), spec, rank, world))
        assert len(steps) == STOP - START
        for step, found in enumerate(steps, START):
            places = [(one.step, one.index) for one in found]
            assert places == [(step, index) for index in spec.plan.of_rank(rank, world)]
            for one in found:
                twin = whole.pop((one.step, one.index))
                assert np.array_equal(one.rows, twin.rows)
                assert np.array_equal(one.images, twin.images)
                assert one.captions == twin.captions
    assert not whole


@pytest.mark.parametrize(
    "harm",
    [
        lambda mine: mine[1:],
        lambda mine: mine[:-1],
        lambda mine: [mine[1], mine[0], *mine[2:]],
        lambda mine: [mine[0], *mine],
        lambda mine: [*mine, mine[-1]],
        lambda mine: [*mine[:-1], mine[-1][::-1]],
        lambda mine: [mine[0][:-1], *mine[1:]],
        lambda mine: [*mine[:3], *mine[6:]],
    ],
    ids=["late", "cut", "swapped", "twice", "beyond", "reversed", "short", "hole"],
)
def test_a_stream_that_is_not_the_plan_is_refused(spec, blocks, harm):
    """A block is missing, comes twice, or is of other steps: no step is trained on another step's rows."""
    mine = sent(spec, blocks, 0, 2)
    with pytest.raises(ValueError, match="does not follow the plan: rank 0 "):
        list(group_by_step(iter(harm(mine)), spec, 0, 2))


def test_a_stream_of_another_rank_is_refused(spec, blocks):
    with pytest.raises(ValueError, match=r"rank 0 expected microbatches \[0, 2, 4\] of step 4, got \[\(4, 1\), "):
        next(group_by_step(iter(sent(spec, blocks, 1, 2)), spec, 0, 2))


def test_pixels_are_decoded_into_the_block_and_not_copied(spec):
    """A block of 12 images of 256 x 256 takes the memory of its pixels once, and the next block in the process takes
    none; microbatches are views of it."""
    large = replace(spec, data=replace(spec.data, view=View(shape=(256, 256))))
    block = Block(6, 9, 0)
    make_block(large, block)  # opens the data set
    peak = peak_bytes(lambda: (tables._spare.clear(), make_block(large, block)))
    again = peak_bytes(lambda: make_block(large, block))
    size, before = 12 * 256 * 256, pa.total_allocated_bytes()
    table = make_block(large, block)
    assert size <= peak + pa.total_allocated_bytes() - before < 1.3 * size
    assert again < 0.3 * size  # in the memory of the block before
    pixels = table.column("image").chunk(0).buffers()[2]
    for batch in from_table(table, 1):
        assert pixels.address <= batch.images.data_ptr() < pixels.address + pixels.size


def test_blocks_hold_what_fits():
    assert steps_in_block((1, 8, 8), 128, 8.0, 64) == 64
    assert steps_in_block((3, 256, 256), 128, 8.0, 64) == 1
    assert steps_in_block((3, 32, 32), 128, 8.0, 64) == 20
