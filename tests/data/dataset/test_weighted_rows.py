"""Weighted draws: each row within one of its share in every epoch, and few row groups in a chunk of draws."""

import numpy as np
import pytest

from raysde.data.dataset.layout import Layout, Rows
from raysde.data.dataset.weighted_rows import WeightedRows

COUNTS = [(1000, 16), (37, 64), (5000, 64), (777, 7)]
SHAPES = {
    "equal": lambda n: np.ones(n),
    "heavy tail": lambda n: np.random.default_rng(0).exponential(size=n) ** 4,
    "one row": lambda n: (np.arange(n) == 5) * 1.0,
    "a class of few rows": lambda n: np.where(np.arange(n) < n // 10, 50.0, 0.1),
    "half without weight": lambda n: np.where(np.arange(n) > n // 2, 0.0, 1.0),
    "tiny and huge": lambda n: np.where(np.arange(n) % 7 == 0, 1e12, 1e-12),
}


def weighted(n: int, chunk: int, weights: np.ndarray) -> WeightedRows:
    return WeightedRows.of(Rows((Layout([0], [n], chunk),), np.empty(0, dtype=np.int64)), weights, chunk, 3)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("n", "chunk"), COUNTS)
def test_each_epoch_draws_each_row_within_one_of_its_share(n, chunk, shape):
    """Over epochs, the golden ratio keeps the sum of the errors of a row below that of independent offsets, sqrt(e/4)."""
    weights = SHAPES[shape](n)
    rows, share, total = weighted(n, chunk, weights), weights / weights.sum() * n, np.zeros(n)
    for epoch in range(100):
        found = rows[np.arange(n) + epoch * n]
        counts = np.bincount(found, minlength=n)
        assert len(found) == n
        assert np.all(np.abs(counts - share) < 1 + 1e-6)
        assert not counts[weights == 0].any()
        total += counts
    assert np.abs(total - 100 * share).max() < 4


def test_equal_weights_draw_every_row_once_in_order():
    rows = weighted(1000, 16, np.full(1000, 0.1))
    assert rows[np.arange(1000) + 7000].tolist() == list(range(1000))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("n", "chunk"), COUNTS)
def test_chunks_of_draws_touch_few_row_groups(n, chunk, shape):
    """All chunks of an epoch together touch at most twice the row groups of the data set."""
    rows = weighted(n, chunk, SHAPES[shape](n))
    groups = -(-n // chunk)
    for epoch in range(5):
        found = rows[np.arange(n) + epoch * n] // chunk
        assert sum(len(np.unique(found[first : first + chunk])) for first in range(0, n, chunk)) <= 2 * groups


def test_copies_of_a_row_lie_apart():
    """Rows of a group that an epoch draws ten times come once in each of ten visits, not ten times at once."""
    rows = weighted(1600, 16, np.where(np.arange(1600) < 16, 10.0, 1440 / 1584))
    found = rows[np.arange(160)]
    assert set(found) <= set(range(16))
    for visit in range(9):
        assert len(set(found[visit * 16 : visit * 16 + 16])) >= 15


def test_any_place_is_drawn_alone():
    rows = weighted(777, 7, SHAPES["heavy tail"](777))
    places = np.random.default_rng(0).integers(0, 50 * 777, 300)
    assert rows[places].tolist() == [int(rows[np.array([place])][0]) for place in places]
