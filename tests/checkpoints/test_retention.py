"""The checkpoints that stay: the newest, the best and those of certain steps, also after kills."""

from types import SimpleNamespace

import numpy as np
import pytest

from raysde.checkpoints.description import Kept
from raysde.checkpoints.retention import Retention, rank_checkpoints
from raysde.training.ranking import Ranking


def kept_at(step: int, value: float | None) -> Kept:
    """Return a whole checkpoint with this metric; None for one that was not measured."""
    metrics = {} if value is None else {"metrics": {"val/kid": value}}
    return Kept(f"run/step_{step:09d}", SimpleNamespace(step=step, state={"step": step, **metrics}))


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("seed", range(20))
def test_pruning_step_by_step_with_kills_keeps_the_best_of_all(seed, mode):
    """Whatever was pruned on the way, and wherever a kill left a prune out, the end has the newest, the best of all
    steps and the first of every five steps, as a sort of the whole history says. Equal values are decided by the earlier step."""
    g = np.random.default_rng(seed)
    steps = np.cumsum(g.integers(1, 4, 30))
    values = g.integers(0, 6, 30) / 4.0  # with ties
    measured = g.random(30) < 0.8
    newest, best = int(g.integers(1, 4)), int(g.integers(0, 4))
    keep, folder = Retention(newest, best, Ranking("val/kid", mode), every=5), []
    for number, step in enumerate(steps):
        folder.insert(0, kept_at(int(step), float(values[number]) if measured[number] else None))
        if number == 29 or g.random() < 0.7:  # otherwise killed before the prune
            gone = {each.path for each in keep.choose_old(folder)}
            folder = [each for each in folder if each.path not in gone]
    order = np.lexsort((steps, values if mode == "min" else -values))
    top = [int(steps[place]) for place in order if measured[place]][:best]
    firsts = [min(step for step in steps.tolist() if step // 5 == number) for number in set(steps // 5) - {0}]
    expected = {*map(int, steps[-newest:]), *top, *firsts}
    assert {each.step for each in folder} == expected


def test_checkpoints_without_a_finite_value_are_never_the_best():
    found = [
        kept_at(5, float("inf")),
        kept_at(4, None),
        kept_at(3, 2.0),
        Kept("run/step_000000002", None),
        kept_at(1, 1.0),
    ]
    assert [each.step for each in rank_checkpoints(found, Ranking("val/kid", "max"))] == [3, 1]
    assert [each.step for each in rank_checkpoints(found, Ranking("val/kid"))] == [1, 3]
    assert rank_checkpoints(found, Ranking("val/fid")) == []
