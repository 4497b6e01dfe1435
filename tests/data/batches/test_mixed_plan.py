"""Plans of several sources: exact shares at every row, each row once in each epoch of its source, and any step at once."""

import time
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest

from raysde.data.batches.mixed_plan import MixedPlan, SourcePlan, SourceSize, plan_sources
from raysde.data.batches.shares import PERIOD, exact_shares, mix_sources, split_count

LARGE = SourcePlan(rows=1000, chunk=16, laned=True)
ODD = SourcePlan(rows=130, chunk=7, laned=True)
SMALL = SourcePlan(rows=77, chunk=16, laned=False)


def planned(shares: tuple[int, ...], *sources: SourcePlan, steps: int = 8, batch: int = 24) -> MixedPlan:
    rows = sum(source.rows for source in sources)
    return MixedPlan(rows=rows, batch=batch, microbatch=4, seed=3, steps=steps, shares=shares, sources=sources)


def drawn(plan: MixedPlan, first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Return source and place of each row of the steps from ``first`` to ``stop - 1``, in order."""
    parts = [plan.rows_of(step, index) for step in range(first, stop) for index in range(plan.microbatches)]
    places, sources = np.divmod(np.concatenate(parts), len(plan.sources))
    return sources, places


@pytest.mark.parametrize("weights", [[1], [1, 1], [0.7, 0.3], [5, 2, 1], [0.97, 0.01, 0.01, 0.01], [0.31415, 0.27182, 1.7],
                                     [1 / 3, 1 / 7, 1 / 11], [*range(1, 60)]])  # fmt: skip
def test_each_source_is_within_one_row_of_its_share(weights):
    """Count rows of each source before every row of two periods, in whole numbers, against exact fractions."""
    shares = exact_shares(weights)
    order, period = mix_sources(shares), sum(shares)
    rows = np.arange(2 * period + 1)
    sources = order.sources_of(rows)
    for number, share in enumerate(shares):
        counts = np.concatenate([[0], np.cumsum(sources == number)])[:-1]
        assert np.abs(counts * period - rows * share).max() < period
        assert np.array_equal(order.count_before(number, rows), counts)


def test_weights_are_exact_decimals_or_parts_of_a_period():
    assert exact_shares([0.7, 0.3]) == (7, 3)
    assert exact_shares([0.1, 0.1, 0.1]) == (1, 1, 1)
    assert exact_shares([200, 50]) == (4, 1)
    weights = [np.pi, np.e, 0.001]
    shares = exact_shares(weights)
    assert sum(shares) == PERIOD
    for weight, share in zip(weights, shares, strict=True):
        assert abs(Fraction(share, PERIOD) - Fraction(weight) / sum(map(Fraction, weights))) < Fraction(1, PERIOD)
    with pytest.raises(ValueError, match=r"weight 1e-06 is less than one row in 65536 of all weights"):
        exact_shares([1.0, 1e-6])
    assert split_count(10, (1, 1, 1)) == (4, 3, 3)


@pytest.mark.parametrize(
    ("shares", "sources", "steps"),
    [((5, 2, 1), (LARGE, ODD, SMALL), 8), ((1,), (LARGE,), 8), ((1, 3), (SMALL, LARGE), 5), ((1, 1), (ODD, SMALL), 1)],
)
def test_each_row_comes_once_in_each_epoch_of_its_source(shares, sources, steps):
    """After any segment, each row of a source was seen as often as the source's epochs are finished, or once more."""
    plan = planned(shares, *sources, steps=steps)
    counts = [np.zeros(source.rows, dtype=int) for source in sources]
    seen = np.zeros(len(sources), dtype=int)
    for segment in range(4 * plan.rows // (plan.segment * plan.batch)):
        numbers, places = drawn(plan, segment * plan.segment, (segment + 1) * plan.segment)
        for number, source in enumerate(sources):
            here = places[numbers == number]
            counts[number] += np.bincount(here % source.rows, minlength=source.rows)
            finished, rest = divmod(int(counts[number].sum()), source.rows)
            assert set(counts[number]) <= {finished, finished + 1}
            assert (counts[number] == finished + 1).sum() == rest
        rows = np.arange(seen.sum() + 1, seen.sum() + len(numbers) + 1)
        for number, share in enumerate(shares):
            before = seen[number] + np.cumsum(numbers == number)
            assert np.abs(before * sum(shares) - rows * share).max() < sum(shares)
        seen += np.bincount(numbers, minlength=len(sources))


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_and_restarts_see_the_same_rows(world):
    """The rows of all ranks, restarted at every fifth step, are those of one process without a restart."""
    plan = planned((5, 2, 1), LARGE, ODD, SMALL)
    whole = [plan.rows_of(step, index).tolist() for step in range(20) for index in range(6)]
    found = {}
    for start in range(0, 20, 5):
        again = planned((5, 2, 1), LARGE, ODD, SMALL)
        for rank in range(world):
            for step in range(start, start + 5):
                for index in again.of_rank(rank, world):
                    found[step, index] = again.rows_of(step, index).tolist()
    assert [found[step, index] for step in range(20) for index in range(6)] == whole


def test_a_lane_reads_few_row_groups():
    """In a segment, a lane's rows of a source lie in at most two row groups more than they fill."""
    plan = planned((3, 1), LARGE, SourcePlan(rows=5000, chunk=16, laned=True), steps=40)
    for segment in range(6):
        for index in range(plan.microbatches):
            steps = range(segment * 40, segment * 40 + 40)
            places, sources = np.divmod(np.concatenate([plan.rows_of(step, index) for step in steps]), 2)
            for number, source in enumerate(plan.sources):
                inside = places[sources == number] % source.rows
                epochs = len(np.unique(places[sources == number] // source.rows))
                # the two ends of an epoch hold the rows beyond its last full row group
                assert len(np.unique(inside // 16)) <= len(inside) / 16 + 2 + 3 * (epochs - 1)


def test_epochs_and_sources_have_a_different_order_each():
    """Permutations of 77 and 1,000 rows agree in Poisson(1) places: at most 8 of them."""
    for source in (SMALL, LARGE):
        plan = planned((1, 1), source, source, steps=1)
        numbers, places = drawn(plan, 0, 4 * 2 * source.rows // plan.batch + 1)
        orders = []
        for number in (0, 1):
            own = places[numbers == number]
            orders += [own[own // source.rows == epoch] % source.rows for epoch in range(3)]
        assert max((orders[a] == orders[b]).sum() for a in range(6) for b in range(a)) <= 8 * (
            16 if source.laned else 1
        )


def test_small_sources_are_shuffled_at_once():
    """Sources that fit into 192 MB together stay in the cache; a user's window decides by the rows of each in it."""
    sizes = [SourceSize(10**6, 25_000.0, 64), SourceSize(1000, 25_000.0, 64), SourceSize(5000, 25_000.0, 64)]
    plan = plan_sources(sizes, (2, 1, 1), 2048, 16, 0, None)
    assert [source.laned for source in plan.sources] == [True, False, True]
    assert plan.segment == 20
    wanted = plan_sources(sizes, (2, 1, 1), 2048, 16, 0, 8192)
    assert [source.laned for source in wanted.sources] == [True, False, True]
    assert wanted.segment == 4
    assert not plan_sources(sizes[1:2], (1,), 32, 16, 0, None).has_lanes


def test_a_late_step_of_a_large_mixture_needs_no_list():
    sources = tuple(SourcePlan(rows=10**9 - each, chunk=64, laned=True) for each in range(3))
    plan = planned((7, 2, 1), *sources, steps=20, batch=2048)
    plan.rows_of(0, 0)
    spent: dict[bool, list[float]] = {False: [], True: []}
    tracemalloc.start()
    for step in np.random.default_rng(1).integers(0, 100, 40).tolist():
        for late in (False, True):
            begin = time.perf_counter()
            plan.rows_of(step + late * 10**9, 5)
            spent[late].append(time.perf_counter() - begin)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.median(spent[True]) < 10 * np.median(spent[False])
    assert peak < 1e6
