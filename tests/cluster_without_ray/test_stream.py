"""The training stream without a cluster: blocks made by its tasks, dealt out in turn and regrouped."""

from itertools import chain, pairwise

import numpy as np
import pytest

from raysde.cluster.stream import StreamSpec, group_by_step, make_block, steps_in_block
from raysde.data.batches.arrow import from_table
from raysde.data.batches.microbatch import Feed, read_batches
from raysde.data.batches.plan import Plan
from raysde.data.dataset.reader import Reader
from raysde.data.dataset.split import split_rows
from raysde.data.dataset.view import View

START, STOP, STEPS = 3, 11, 3


@pytest.fixture(scope="module")
def spec(digits) -> StreamSpec:
    """Return a stream with six microbatches per step and a last block that is one step short."""
    rows, _ = split_rows(digits, digits.rows - 180, 1)
    view = View(shape=(6, 6), crop="random", scale=(0.5, 1.0))
    feed = Feed(Plan(rows=180, batch=24, microbatch=4, seed=1), rows, view)
    return StreamSpec(path=digits.path, fingerprint=digits.fingerprint, feed=feed, start=START, stop=STOP,
                      block_steps=STEPS, spare=4)  # fmt: skip


@pytest.fixture(scope="module")
def blocks(spec) -> list:
    return [make_block(spec, number) for number in range(spec.blocks)]


def dealt(blocks, rank, world):
    return (list(from_table(block, 1)) for block in blocks[rank::world])


def test_blocks_hold_each_microbatch_of_each_step_once(spec):
    """A block has consecutive steps of one microbatch, and spare blocks are blank."""
    held = [[(step, number % 6) for step in spec.steps_of(number)] for number in range(spec.blocks)]
    assert sorted(chain.from_iterable(held)) == [(step, index) for step in range(START, STOP) for index in range(6)]
    assert all(later[0] == step[0] + 1 for block in held for step, later in pairwise(block))
    assert [len(block) for block in held] == [3] * 12 + [2] * 6 + [0] * 4


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_each_rank_gets_its_microbatches_step_by_step(digits, spec, blocks, world):
    """Microbatches equal those of the bare loop for any number of workers, also if ranks have unequal shares."""
    assert {block.num_rows for block in blocks} == {12}
    whole = {
        (one.step, one.index): one for step in read_batches(spec.feed, Reader(digits), START, STOP) for one in step
    }
    for rank in range(world):
        steps = list(group_by_step(dealt(blocks, rank, world), spec, rank, world))
        assert len(steps) == STOP - START
        for step, found in enumerate(steps, START):
            places = [(one.step, one.index) for one in found]
            # a block's microbatch stays with its rank if the microbatches are dealt out evenly
            assert 6 % world or places == [(step, index) for index in spec.feed.plan.of_rank(rank, world)]
            assert {place[0] for place in places} == {step}
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
        lambda mine: [mine[0][::-1], *mine[1:]],
        lambda mine: [mine[0][:-1], *mine[1:]],
        lambda mine: [*mine[:3], *mine[6:]],
    ],
    ids=["late", "cut", "swapped", "reversed", "short", "hole"],
)
def test_a_stream_that_is_not_the_plan_is_refused(spec, blocks, harm):
    """The block is missing, another rank's, or of other steps: no step is trained on another step's rows."""
    mine = list(dealt(blocks[: spec.blocks - spec.spare], 0, 2))
    with pytest.raises(ValueError, match=r"does not follow the plan: rank 0 expected microbatches \[0, 2, 4\] of step"):
        list(group_by_step(iter(harm(mine)), spec, 0, 2))


def test_blocks_hold_what_fits():
    assert steps_in_block((1, 8, 8), 128, 8.0, 64) == 64
    assert steps_in_block((3, 256, 256), 128, 8.0, 64) == 1
    assert steps_in_block((3, 32, 32), 128, 8.0, 64) == 20
