"""The batch plan: each row occurs once an epoch, on any worker, from any position, in little time and memory."""

import time

import numpy as np
import pytest

from raysde.data.batches.plan import Plan, epoch_order, split_steps
from raysde.data.dataset.layout import Layout, hold_out_rows
from raysde.data.dataset.permutation import permute_numbers
from tests.support.memory import peak_bytes


def rows_of_steps(plan, start, stop):
    return np.concatenate(
        [plan.rows_of(step, index) for step in range(start, stop) for index in range(plan.microbatches)]
    )


@pytest.mark.parametrize("count", [1, 2, 3, 10, 4096, 4097, 8191, 65_536, 100_003])
def test_a_permutation_has_every_number_once(count):
    """Permutations are complete below and above the size of the cipher, and at powers of two."""
    for key in (0, 7):
        assert np.array_equal(np.sort(permute_numbers(np.arange(count), count, key)), np.arange(count))
    assert count < 4 or not np.array_equal(
        permute_numbers(np.arange(count), count, 0), permute_numbers(np.arange(count), count, 7)
    )


def test_a_permutation_can_be_asked_for_any_part():
    whole = permute_numbers(np.arange(10_000), 10_000, 3)
    some = np.array([9_999, 5, 5, 1234])
    assert np.array_equal(permute_numbers(some, 10_000, 3), whole[some])
    assert len(permute_numbers(np.empty(0, dtype=np.int64), 10_000, 3)) == 0


@pytest.mark.parametrize("count", [10, 5000])
def test_permutations_are_uniform(count):
    """The image of the first number is uniform over tenths: chi-square over 5,000 keys, 9 degrees of freedom."""
    first = np.array([permute_numbers(np.zeros(1, dtype=np.int64), count, key)[0] for key in range(5000)])
    counts = np.bincount(first * 10 // count, minlength=10)
    assert ((counts - 500) ** 2 / 500).sum() < 9 + 4 * np.sqrt(18)


def test_permutations_are_independent_of_the_place():
    """Over 2^17 numbers, fixed points are Poisson(1), distances of neighbours uniform, and images uncorrelated."""
    count = 1 << 17
    found = permute_numbers(np.arange(count), count, 11)
    assert (found == np.arange(count)).sum() <= 5
    apart = np.diff(found) % count
    counts = np.bincount(apart * 16 // count, minlength=16)
    assert ((counts - len(apart) / 16) ** 2 / (len(apart) / 16)).sum() < 15 + 4 * np.sqrt(30)
    assert abs(np.corrcoef(np.arange(count), found)[0, 1]) < 4 / np.sqrt(count)


@pytest.mark.parametrize(
    ("rows", "batch", "window", "chunk"),
    [(100, 8, 1 << 20, 16), (100, 8, 20, 10), (37, 64, 12, 3), (96, 8, 32, 16), (10_001, 100, 5000, 1000)],
)
def test_each_epoch_has_every_row_once(rows, batch, window, chunk):
    """Epochs follow without a gap, also if a batch spans two epochs or is larger than the data set."""
    plan = Plan(rows=rows, batch=batch, microbatch=4, seed=3, window=window, chunk=chunk)
    seen = rows_of_steps(plan, 0, -(-3 * rows // batch))
    epochs = [seen[epoch * rows : (epoch + 1) * rows] for epoch in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(rows))
    assert not np.array_equal(epochs[0], epochs[1])


def test_nothing_is_ordered_like_another():
    """Rows of two windows, rows of two buckets, and the order of buckets in two epochs are independent."""
    inside = epoch_order(np.arange(4000), 4000, 1000, 1000, 5).reshape(4, 1000) % 1000
    # two permutations of any size agree in Poisson(1) places
    assert max((inside[a] == inside[b]).sum() for a in range(4) for b in range(a)) <= 8
    plan = Plan(rows=1600, batch=4, microbatch=4, seed=1, buckets=(800, 800))
    rows = rows_of_steps(plan, 0, 800)
    # a bucket's microbatches come in random turns, so that one order for both buckets shows in what they hold
    first, second = (
        set(map(tuple, part.reshape(200, 4))) for part in (rows[rows < 800][:800], rows[rows >= 800][:800] - 800)
    )
    assert len(first) == len(second) == 200
    assert not first & second
    turns = (rows[::4] >= 800).reshape(2, 400)
    assert abs((turns[0] == turns[1]).mean() - 0.5) < 4 * 0.5 / np.sqrt(400)


def test_epochs_are_counted_in_rows():
    plan = Plan(rows=100, batch=8, microbatch=4, seed=0)
    assert [plan.epoch(step) for step in (0, 25, 30)] == [0.0, 2.0, 2.4]


def test_seeds_differ():
    orders = [rows_of_steps(Plan(rows=50, batch=10, microbatch=10, seed=seed), 0, 5) for seed in (0, 1)]
    assert not np.array_equal(*orders)


def test_microbatches_cut_the_global_batch():
    """The rows and their order are the same for any microbatch size."""
    large, small = (Plan(rows=100, batch=24, microbatch=m, seed=0) for m in (24, 4))
    assert np.array_equal(rows_of_steps(large, 0, 9), rows_of_steps(small, 0, 9))


@pytest.mark.parametrize("world", [1, 2, 3, 4, 6])
def test_ranks_partition_the_microbatches(world):
    plan = Plan(rows=100, batch=24, microbatch=4, seed=0)
    shares = [plan.of_rank(rank, world) for rank in range(world)]
    assert sorted(index for share in shares for index in share) == list(range(6))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_windows_bound_the_reach():
    """The rows of a window come from few chunks, which bounds the row groups to read, and the chunks lie far apart."""
    rows, window, chunk = 10_050, 1000, 100
    order = epoch_order(np.arange(rows), rows, window, chunk, 5)
    spans = []
    for start in range(0, rows, window):
        inside = np.unique(order[start : start + window] // chunk)
        assert len(inside) <= window // chunk + 2
        spans.append(np.ptp(inside))
    assert np.mean(spans) > 0.6 * rows / chunk


def test_rows_are_mixed_within_a_window():
    """Neighbours in the order come from the same chunk as often as by chance, 1 in 10."""
    order = epoch_order(np.arange(100_000), 100_000, 10_000, 1000, 5)
    same = np.mean(order[1:] // 1000 == order[:-1] // 1000)
    assert abs(same - 0.1) < 4 * np.sqrt(0.1 * 0.9 / 100_000)


def test_the_short_chunk_has_no_fixed_place():
    """The rows after the last full chunk come early in some epochs and late in others."""
    places = [np.flatnonzero(epoch_order(np.arange(1010), 1010, 100, 100, epoch) >= 1000).mean() for epoch in range(40)]
    assert min(places) < 300
    assert max(places) > 700


def test_a_billion_rows_need_no_list(capsys):
    """One position of 10^9 rows in 100,000 shards takes under 1 ms, and memory only for the shards."""
    lengths = np.random.default_rng(0).integers(9_000, 11_001, 100_000)
    lengths[-1] += 1_000_000_000 - lengths.sum()
    layout = Layout(np.cumsum(lengths) - lengths, lengths, 1024)
    rows, _ = hold_out_rows((layout,), 2048, 0)
    plan = Plan(rows=rows.count, batch=256, microbatch=256, seed=0, window=1 << 20, chunk=1024)
    rows[plan.rows_of(0, 0)]
    spent = []

    def look_up():
        for step in np.random.default_rng(1).integers(0, 10**9, 50).tolist():
            begin = time.perf_counter()
            found = rows[plan.rows_of(step, 0)]
            spent.append((time.perf_counter() - begin) / 256)
            assert len(np.unique(found)) == 256

    assert peak_bytes(look_up) < 8 * len(lengths)
    assert np.median(spent) < 1e-3


def test_a_layout_goes_through_every_row():
    """A layout has all rows, with those of each full row group side by side for any lengths of shards."""
    starts, lengths = [0, 25, 25, 30, 50], [25, 0, 5, 20, 7]
    layout = Layout(starts, lengths, 10)
    found = layout.rows_at(np.arange(57))
    assert sorted(found) == list(range(57))
    groups = found[:40].reshape(4, 10)
    assert [list(group) for group in groups] == [list(range(a, a + 10)) for a in (0, 10, 30, 40)]
    assert list(found[40:]) == [*range(20, 25), *range(25, 30), *range(50, 57)]


def test_held_out_rows_are_never_trained_on():
    layouts = (Layout([0, 60], [30, 25], 10), Layout([30], [30], 10))
    training, held_out = hold_out_rows(layouts, 20, 5)
    assert len(held_out) == 20
    assert training.count == 65
    rows = training[np.arange(65)]
    assert sorted([*rows, *held_out]) == list(range(85))
    assert training.sizes == tuple(np.bincount(np.isin(rows, np.arange(30, 60)), minlength=2))
    assert not np.array_equal(held_out, hold_out_rows(layouts, 20, 6)[1])


@pytest.mark.parametrize("sizes", [(40, 60), (7, 3, 90), (1, 200), (50,)])
def test_buckets_stay_apart_and_lose_nothing(sizes):
    """A microbatch has rows of one bucket, and a bucket's microbatches cut its endless sequence without a gap."""
    plan = Plan(rows=sum(sizes), batch=16, microbatch=4, seed=1, buckets=sizes)
    borders = np.cumsum((0, *sizes))
    taken: dict[int, list] = {bucket: [] for bucket in range(len(sizes))}
    steps = 5 * sum(sizes) // 16
    for step in range(steps):
        for index in range(4):
            rows = plan.rows_of(step, index)
            (bucket,) = set(np.searchsorted(borders, rows, side="right") - 1)
            taken[bucket].append(rows)
    for bucket, size in enumerate(sizes):
        seen = np.bincount(np.concatenate([*taken[bucket], []]).astype(int) - borders[bucket], minlength=size)
        # microbatches of an epoch come in random order, so near the end one epoch may have begun before another ended
        assert seen.max() - seen.min() <= 2
        assert abs(len(taken[bucket]) * 4 - 16 * steps * size / sum(sizes)) <= max(8, size)


def test_buckets_are_mixed():
    """Microbatches of two equal buckets are ordered like coin tosses."""
    plan = Plan(rows=8000, batch=4, microbatch=4, seed=1, buckets=(4000, 4000))
    tossed = np.array([plan.rows_of(step, 0)[0] >= 4000 for step in range(2000)])
    assert tossed.sum() == 1000
    assert abs(np.mean(tossed[1:] == tossed[:-1]) - 0.5) < 4 * 0.5 / np.sqrt(2000)


def test_blocks_cover_the_steps():
    assert list(split_steps(3, 12, 4)) == [(3, 4), (4, 8), (8, 12)]
    assert list(split_steps(4, 9, 4)) == [(4, 8), (8, 9)]
    assert list(split_steps(5, 5, 4)) == []


@pytest.mark.parametrize(
    ("make", "culprit"),
    [
        (lambda: Plan(rows=0, batch=4, microbatch=4, seed=0), "no rows"),
        (lambda: Plan(rows=9, batch=10, microbatch=4, seed=0), "microbatch"),
        (lambda: Plan(rows=9, batch=12, microbatch=4, seed=0).of_rank(0, 4), "4 workers"),
        (lambda: hold_out_rows((Layout([0], [10], 4),), 10, 0), "validation.rows"),
    ],
)
def test_impossible_plans_are_refused(make, culprit):
    with pytest.raises(ValueError, match=culprit):
        make()
