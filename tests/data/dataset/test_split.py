"""Held-out rows: their number, their uniform choice by the seed, and the data set's validation split."""

import numpy as np
import pytest

from raysde.data.dataset.layout import Layout, Rows, choose_positions, hold_out_rows, locate_rows
from raysde.data.dataset.manifest import Manifest
from raysde.data.dataset.shard_table import Shard
from raysde.data.dataset.split import VALIDATION_ROWS, split_rows

LAYOUTS = (Layout([0, 60], [25, 15], 10), Layout([25], [35], 10))


def manifest_of(*shards) -> Manifest:
    """Return a manifest of shards given as (rows, split)."""
    return Manifest(
        "x", 1, (8, 8), 10, tuple(Shard(str(n), rows, 1, "0" * 64, split) for n, (rows, split) in enumerate(shards))
    )


def test_each_row_is_held_out_as_often_as_another():
    """15 of 75 rows over 2,000 seeds: chi-square with 74 degrees of freedom, its variance reduced by 1 - 15/75."""
    counts = np.zeros(75)
    for seed in range(2000):
        training, held = hold_out_rows(LAYOUTS, 15, seed)
        assert training.count == 60
        counts[held] += 1
    assert counts.sum() == 15 * 2000
    expected = 2000 * 15 / 75
    score = ((counts - expected) ** 2 / (expected * (1.0 - 15 / 75))).sum()
    assert score < 75 + 4.0 * np.sqrt(2 * 75)


@pytest.mark.parametrize("count", [0, 1, 15, 74])
def test_rows_are_trained_on_or_held_out(count):
    """Each row is trained on or held out, also if held-out rows lie at either end or side by side."""
    for seed in range(30):
        training, held = hold_out_rows(LAYOUTS, count, seed)
        assert list(held) == sorted(set(held))
        assert sorted([*training[np.arange(training.count)], *held]) == list(range(75))
    with pytest.raises(ValueError, match=r"validation\.rows=75 leaves none of 75 rows"):
        hold_out_rows(LAYOUTS, 75, 0)


@pytest.mark.parametrize("held", [[], [0], [74], [0, 1, 2], [72, 73, 74], [10, 11, 40, 41], [39, 40]])
def test_positions_pass_over_what_is_held(held):
    """Positions index the list of all rows without the held-out ones, bucket by bucket."""
    rows = Rows(LAYOUTS, np.array(held, dtype=np.int64))
    everything = np.concatenate([layout.rows_at(np.arange(layout.count)) for layout in LAYOUTS])
    assert rows[np.arange(rows.count)].tolist() == np.delete(everything, held).tolist()
    assert rows.sizes == (40 - sum(each < 40 for each in held), 35 - sum(each >= 40 for each in held))
    assert rows.number_positions(np.arange(75)).tolist() == everything.tolist()


def test_a_larger_choice_holds_a_smaller_one():
    """A smaller choice of one seed is part of a larger one, and no choice exceeds the number of rows."""
    rows = Rows(LAYOUTS, np.empty(0, dtype=np.int64))
    few, many = choose_positions(rows, 10, 3), choose_positions(rows, 30, 3)
    assert (len(few), len(many)) == (10, 30)
    assert set(few) < set(many)
    assert choose_positions(rows, 500, 3).tolist() == list(range(75))
    assert few.tolist() != choose_positions(rows, 10, 4).tolist()


def test_the_data_sets_split_gives_at_most_what_it_has():
    """Up to 2,048 rows by default, or the requested number, are drawn by the seed from the validation split.

    All training rows stay in training."""
    large = manifest_of((500, "train"), (3000, "validation"), (2000, "validation"))
    rows, held = split_rows(large, None, 0)
    assert len(set(held.tolist())) == len(held) == VALIDATION_ROWS == 2048
    assert held.tolist() == sorted(held.tolist())
    assert (held >= 500).all()
    share = (held >= 3500).mean()
    assert abs(share - 0.4) < 4.0 * np.sqrt(0.24 / 2048)
    assert sorted(rows[np.arange(rows.count)]) == list(range(500))
    assert split_rows(large, None, 1)[1].tolist() != held.tolist()
    assert split_rows(large, 7, 5)[1].tolist() != split_rows(large, 7, 6)[1].tolist()
    small = manifest_of((50, "train"), (30, "validation"))
    for asked in (None, 30, 1000):
        assert split_rows(small, asked, 0)[1].tolist() == list(range(50, 80))
    alone = manifest_of((50, "train"), (10, "train"))
    rows, held = split_rows(alone, 12, 9)
    assert sorted([*rows[np.arange(48)], *held]) == list(range(60))
    assert len(held) == 12
    assert held.tolist() != split_rows(alone, 12, 8)[1].tolist()
    assert split_rows(alone, None, 0)[1].tolist() == []


def test_rows_are_found_in_their_shard_and_row_group():
    """Places equal those counted one by one, through shards of all lengths and an empty one, row group by row group."""
    lengths = [25, 0, 10, 7, 1]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    known = [(shard, place // 10, place % 10) for shard, rows in enumerate(lengths) for place in range(rows)]
    asked = np.random.default_rng(0).integers(0, 43, 200)
    found = locate_rows(starts, 10, asked)
    assert sorted(place for place, *_ in found) == list(range(200))
    assert all(known[asked[place]] == tuple(where) for place, *where in found)
    groups = [(shard, number) for _, shard, number, _ in found]
    assert groups == sorted(groups)
