"""Plans with lanes: each row once an epoch, few row groups in a lane, many in a batch, and any position at once."""

import time

import numpy as np
import pytest

from raysde.data.batches.chunks import chunk_positions
from raysde.data.batches.plan import LANED, WINDOWED, Plan
from raysde.data.dataset.layout import AlignedRows, Layout, Rows, hold_out_rows
from raysde.data.dataset.manifest import Manifest
from raysde.data.dataset.permutation import permute_numbers
from raysde.data.dataset.shard_table import Shard
from raysde.data.dataset.split import lane_window
from raysde.rng import CHUNKS, LANES, ORDER, key
from tests.support.memory import peak_bytes


def laned(rows: int, batch: int, microbatch: int, steps: int, chunk: int, **more) -> Plan:
    """Return a plan whose segments have ``steps`` steps."""
    return Plan(
        rows=rows, batch=batch, microbatch=microbatch, seed=3, window=steps * batch, chunk=chunk, order=LANED, **more
    )


def of_segment(plan: Plan, segment: int) -> np.ndarray:
    """Return the positions of a segment, [microbatches, steps, rows]."""
    steps = range(segment * plan.segment, (segment + 1) * plan.segment)
    return np.array([[plan.rows_of(step, index) for step in steps] for index in range(plan.microbatches)])


def manifest_of(rows: int, each: int, group: int, shard: int = 3840) -> Manifest:
    lengths = [min(shard, rows - first) for first in range(0, rows, shard)]
    shards = tuple(Shard(f"{n}", length, length * each, "0" * 64) for n, length in enumerate(lengths))
    return Manifest("x", 3, (256, 256), group, shards)


@pytest.mark.parametrize(
    ("rows", "batch", "microbatch", "steps", "chunk"),
    [
        (960, 16, 4, 8, 16),  # epochs of whole segments
        (1000, 16, 4, 8, 16),  # a rest of 8 rows
        (1001, 12, 4, 5, 7),  # windows that cut chunks
        (997, 16, 16, 3, 10),  # one lane
        (129, 16, 4, 8, 200),  # fewer rows than a chunk
        (150, 32, 2, 4, 64),  # fewer chunks than lanes
        (131, 64, 4, 2, 1),  # chunks of a row
    ],
)
def test_each_row_comes_once_an_epoch(rows, batch, microbatch, steps, chunk):
    """After any segment, each row of the finished epochs was seen once in each, and none twice in the present one."""
    plan = laned(rows, batch, microbatch, steps, chunk)
    counts = np.zeros(rows, dtype=int)
    for segment in range(4 * rows // plan.window + 2):
        counts += np.bincount(of_segment(plan, segment).ravel(), minlength=rows)
        finished, rest = divmod((segment + 1) * plan.window, rows)
        assert set(counts) <= {finished, finished + 1}
        assert (counts == finished + 1).sum() == rest


@pytest.mark.parametrize("sizes", [(640, 320), (500, 301, 200), (960,), (5, 700)])
def test_each_bucket_loses_nothing(sizes):
    """A lane has rows of one bucket in a segment, and a bucket's windows cut its endless sequence without a gap."""
    plan = laned(sum(sizes), 32, 8, 4, 16, buckets=sizes)
    borders = np.cumsum((0, *sizes))
    counts, windows = np.zeros(sum(sizes), dtype=int), np.zeros(len(sizes), dtype=int)
    for segment in range(6 * sum(sizes) // plan.window):
        for lane in of_segment(plan, segment):
            (bucket,) = set(np.searchsorted(borders, lane.ravel(), side="right") - 1)
            counts += np.bincount(lane.ravel(), minlength=len(counts))
            windows[bucket] += 1
    for bucket, size in enumerate(sizes):
        seen = counts[borders[bucket] : borders[bucket + 1]]
        assert seen.sum() == 32 * windows[bucket]
        # windows of an epoch come in random order, so near the end one epoch may have begun before another ended
        assert seen.max() - seen.min() <= 2
        assert abs(32 * windows[bucket] - 32 * windows.sum() * size / sum(sizes)) <= max(2 * 32, size)


def test_positions_equal_those_of_a_list():
    """Each microbatch equals its part of the whole order, written out epoch by epoch and window by window."""
    rows, chunk, plan = 1003, 16, laned(1003, 24, 4, 8, 16)
    full, line = rows // chunk, []
    for epoch in range(5):
        seed = key(3, ORDER, epoch, 0)
        groups = [
            list(range(n * chunk, (n + 1) * chunk))
            for n in permute_numbers(np.arange(full), full, key(seed, CHUNKS, 1))
        ]
        first = -(-epoch * rows // chunk) * chunk - epoch * rows  # places up to the first multiple of the chunk
        whole = (rows - first) // chunk
        loose = [*range(full * chunk, rows), *(row for group in groups[whole:] for row in group)]
        ends = [loose[n] for n in permute_numbers(np.arange(len(loose)), len(loose), key(seed, CHUNKS, 0))]
        line += [*ends[:first], *(row for group in groups[:whole] for row in group), *ends[first:]]
        assert sorted(line[epoch * rows :]) == list(range(rows))
    unit = plan.segment * 4
    for segment in range(5 * rows // plan.window):
        for index in range(6):
            number = segment * 6 + index
            shuffled = permute_numbers(np.arange(unit), unit, key(3, LANES, number, 0))
            wanted = np.array(line[number * unit : (number + 1) * unit])[shuffled].reshape(8, 4)
            for step in range(8):
                assert plan.rows_of(segment * 8 + step, index).tolist() == wanted[step].tolist()


@pytest.mark.parametrize("rows", [6400, 6400 - 37])
def test_a_lane_reads_whole_row_groups(rows):
    """The rows of a lane in a segment are whole chunks, in all epochs, except at the border of two epochs."""
    plan, chunk = laned(rows, 64, 8, 8, 16), 16
    parts = 0
    for segment in range(5 * rows // plan.window):
        for number, lane in enumerate(of_segment(plan, segment)):
            chunks, counts = np.unique(lane // chunk, return_counts=True)
            first = (segment * 8 + number) * 64
            if first // rows == (first + 63) // rows and 16 <= first % rows < rows - 80:
                assert len(chunks) == 4
                assert set(counts) == {16}
            else:
                parts += len(chunks)
    assert parts <= 5 * 3 * 20


@pytest.mark.parametrize("microbatch", [16, 32, 64])
@pytest.mark.parametrize(("each", "group"), [(25_100, 64), (200_100, 8)])
def test_a_batch_mixes_row_groups(microbatch, each, group):
    """A batch of 2,048 rows has at least 500 row groups, and a lane reads its row groups whole."""
    manifest = manifest_of(400_000, each, group)
    rows, _ = hold_out_rows(manifest.layouts("train"), 0, 0)
    window = lane_window(manifest, rows.count, 2048, microbatch, None)
    plan = Plan(rows=rows.count, batch=2048, microbatch=microbatch, seed=0, window=window, chunk=group, order=LANED)
    for step in (0, 17, 10_003):
        batch = rows[np.concatenate([plan.rows_of(step, index) for index in range(plan.microbatches)])]
        assert len(np.unique(batch // group)) >= 500
    steps = range(5 * plan.segment, 6 * plan.segment)
    lane = rows[np.concatenate([plan.rows_of(step, 1) for step in steps])]
    assert len(np.unique(lane // group)) * group == len(lane)


def test_lanes_and_windows_are_ordered_differently():
    """Two windows shuffle their rows by permutations that agree in Poisson(1) places, and epochs order chunks anew."""
    plan = laned(64_000, 256, 64, 16, 1024)
    inside = [np.argsort(np.argsort(lane.ravel())) for segment in (0, 1) for lane in of_segment(plan, segment)]
    assert max((inside[a] == inside[b]).sum() for a in range(8) for b in range(a)) <= 8
    orders = [chunk_positions(np.arange(64_000), 0, 64_000, 64, seed)[::64] // 64 for seed in (1, 2)]
    assert (orders[0] == orders[1]).sum() <= 8


def test_rows_are_mixed_within_a_lane():
    """Neighbours in a lane come from one chunk as often as by chance: 15 of 63 for 4 chunks of 16 rows."""
    plan = laned(64_000, 64, 64, 1, 16)
    lanes = np.array([of_segment(plan, segment)[0, 0] for segment in range(1000)]) // 16
    same = np.mean(lanes[:, 1:] == lanes[:, :-1])
    assert abs(same - 15 / 63) < 4 * np.sqrt(15 / 63 * 48 / 63 / lanes[:, 1:].size)


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_ranks_see_the_same_global_batches(world):
    """The microbatches of all ranks are those of the global batch, whatever their number."""
    plan = laned(1000, 24, 4, 4, 16)
    for step in (0, 5, 41):
        seen = {
            index: plan.rows_of(step, index).tolist() for rank in range(world) for index in plan.of_rank(rank, world)
        }
        assert seen == {index: plan.rows_of(step, index).tolist() for index in range(6)}


def test_small_data_sets_have_the_same_order_in_both_versions():
    both = [
        Plan(rows=100, batch=8, microbatch=4, seed=1, window=100, chunk=16, order=order) for order in (WINDOWED, LANED)
    ]
    for step in range(30):
        assert np.array_equal(*(plan.rows_of(step, 1) for plan in both))
    assert not both[1].has_lanes
    assert both[1].steps_together(7) == 7


def test_blocks_are_parts_of_a_segment():
    plan = laned(10_000, 16, 4, 12, 16)
    assert [plan.steps_together(most) for most in (1, 2, 5, 7, 11, 12, 60)] == [1, 2, 4, 6, 6, 12, 12]


@pytest.mark.parametrize(
    ("rows", "each", "group", "batch", "microbatch", "wanted", "window"),
    [
        (7_000, 28_000, 64, 2048, 16, None, 7_000),  # 196 MB: all rows at once
        (10**6, 25_100, 64, 2048, 16, None, 20 * 2048),  # 640 row groups
        (10**6, 25_100, 64, 32, 8, None, 96 * 32),  # at least 64 MB, 2,674 rows
        (10**6, 100_000, 64, 2048, 64, None, 6 * 2048),  # at most 1 GB, 10,737 rows
        (10**6, 25_100, 64, 2048, 16, 8192, 4 * 2048),
        (10**6, 25_100, 64, 2048, 16, 10**6, 10**6),
        (30_000, 25_100, 64, 2048, 16, None, 8 * 2048),  # about half an epoch
        (10**6, 25_100, 64, 96, 48, None, 28 * 96),  # whole row groups would take 36 steps, with divisors 48
    ],
)
def test_the_window_of_the_lanes(rows, each, group, batch, microbatch, wanted, window):
    assert lane_window(manifest_of(rows, each, group), rows, batch, microbatch, wanted) == window


LAYOUTS = (Layout([0, 60], [25, 15], 10), Layout([25], [35], 10), Layout([75, 79], [4, 9], 10))


@pytest.mark.parametrize(
    "held", [[], [0], [74], [0, 1, 2], [72, 73, 74], [10, 11, 40, 41], [39, 40], [75, 87], range(60)]
)
def test_held_out_rows_leave_row_groups_together(held):
    """All rows but the held-out ones have a position, each bucket in its own range, and chunks are row groups."""
    held = np.array(held, dtype=np.int64)
    rows, plain = AlignedRows(LAYOUTS, held), Rows(LAYOUTS, held)
    found = rows[np.arange(rows.count)]
    start = 0
    for size, layout in zip(rows.sizes, LAYOUTS, strict=True):
        part = found[start : start + size]
        assert sorted(part) == sorted(plain[np.arange(start, start + size)])
        natural = layout.rows_at(np.arange(layout.count))
        for chunk in range(min(layout.full_before[-1], size) // 10):
            group = natural[chunk * 10 : chunk * 10 + 10]
            kept = np.isin(group, part)
            assert part[chunk * 10 : chunk * 10 + 10][kept].tolist() == group[kept].tolist()
        start += size
    shuffled = np.random.default_rng(0).permutation(rows.count)
    assert rows[shuffled].tolist() == found[shuffled].tolist()


def test_a_billion_rows_need_no_list():
    """A late step of 10^9 rows in 100,000 shards takes as long as an early one, and memory only for the shards."""
    lengths = np.random.default_rng(0).integers(9_000, 11_001, 100_000)
    lengths[-1] += 1_000_000_000 - lengths.sum()
    rows, _ = hold_out_rows((Layout(np.cumsum(lengths) - lengths, lengths, 64),), 2048, 0)
    rows = AlignedRows(rows.layouts, rows.held)
    plan = laned(rows.count, 2048, 16, 20, 64)
    rows[plan.rows_of(0, 0)]
    spent: dict[bool, list[float]] = {False: [], True: []}

    def look_up():
        for step in np.random.default_rng(1).integers(0, 100, 40).tolist():
            for late in (False, True):
                begin = time.perf_counter()
                found = rows[plan.rows_of(step + late * 10**9, 5)]
                spent[late].append(time.perf_counter() - begin)
                assert len(np.unique(found)) == 16

    assert peak_bytes(look_up) < 8 * len(lengths)
    assert np.median(spent[True]) < 10 * np.median(spent[False])
