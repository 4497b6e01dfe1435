"""The batch plan: each row exactly once an epoch, whoever computes it."""

import numpy as np
import pytest

from raysde.data.plan import Plan, epoch_order, random_order, split_rows, steps_of_blocks


def rows_of_steps(plan, start, stop):
    return np.concatenate(
        [plan.rows_of(step, index) for step in range(start, stop) for index in range(plan.microbatches)]
    )


@pytest.mark.parametrize(
    ("rows", "batch", "window", "chunk"), [(100, 8, 1 << 20, 16), (100, 8, 20, 7), (37, 64, 10, 3)]
)
def test_each_epoch_has_every_row_once(rows, batch, window, chunk):
    """Epochs follow one another without a gap, also where a batch straddles them or is larger than the data."""
    plan = Plan(rows=rows, batch=batch, microbatch=4, seed=3, window=window, chunk=chunk)
    seen = rows_of_steps(plan, 0, -(-3 * rows // batch))
    for epoch in range(3):
        assert sorted(seen[epoch * rows : (epoch + 1) * rows]) == list(range(rows))


def test_epochs_and_seeds_differ():
    orders = [epoch_order(50, 1000, 10, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_microbatches_cut_the_global_batch():
    """The same rows in the same order, whatever the microbatch size."""
    large, small = (Plan(rows=100, batch=24, microbatch=m, seed=0) for m in (24, 4))
    assert np.array_equal(rows_of_steps(large, 0, 9), rows_of_steps(small, 0, 9))


@pytest.mark.parametrize("world", [1, 2, 3, 6])
def test_ranks_partition_the_microbatches(world):
    plan = Plan(rows=100, batch=24, microbatch=4, seed=0)
    assert [index for rank in range(world) for index in plan.of_rank(rank, world)] == list(range(6))


def test_the_order_is_uniform():
    """Each row is in the first place equally often: chi-square over 10 rows and 5000 epochs, 9 degrees of freedom."""
    first = np.array([random_order(10, 0, 0, epoch)[0] for epoch in range(5000)])
    counts = np.bincount(first, minlength=10)
    chi2 = ((counts - 500) ** 2 / 500).sum()
    assert chi2 < 9 + 4 * np.sqrt(18)


def test_windows_bound_the_reach():
    """With windows, the rows of a window come from few chunks: what bounds the row groups a block reads."""
    rows, window, chunk = 10_000, 1000, 100
    order = epoch_order(rows, window, chunk, 0, 0)
    for start in range(0, rows, window):
        assert len(np.unique(order[start : start + window] // chunk)) <= window // chunk + 1


def test_validation_rows_are_held_out():
    training, held_out = split_rows(100, 20, 5)
    assert len(held_out) == 20
    assert sorted([*training, *held_out]) == list(range(100))
    assert not np.array_equal(held_out, split_rows(100, 20, 6)[1])


def test_blocks_cover_the_steps():
    assert list(steps_of_blocks(3, 12, 4)) == [(3, 7), (7, 11), (11, 12)]
    assert list(steps_of_blocks(5, 5, 4)) == []


@pytest.mark.parametrize(
    ("make", "culprit"),
    [
        (lambda: Plan(rows=0, batch=4, microbatch=4, seed=0), "no rows"),
        (lambda: Plan(rows=9, batch=10, microbatch=4, seed=0), "microbatch"),
        (lambda: Plan(rows=9, batch=12, microbatch=4, seed=0).of_rank(0, 2), "2 workers"),
        (lambda: split_rows(10, 10, 0), "validation.rows"),
    ],
)
def test_impossible_plans_are_refused(make, culprit):
    with pytest.raises(ValueError, match=culprit):
        make()
