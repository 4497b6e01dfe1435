"""The metric that ranks checkpoints and stops a run early."""

import math
from types import SimpleNamespace

import pytest

from raysde.distributed.world import World
from raysde.training.measuring import rank_checkpoint, validate_average
from raysde.training.ranking import Ranking
from tests.training.test_loop import tiny_state


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_value_that_is_not_finite_is_worse_than_any(mode):
    """Infinity is no record, also where higher is better, and neither is a metric that was not measured."""
    ranking = Ranking("val/kid", mode)
    for bad in ({"val/kid": math.inf}, {"val/kid": -math.inf}, {"val/kid": math.nan}, {"val/kid": None}, {}):
        assert ranking.cost(bad) == math.inf
    low, high = ranking.cost({"val/kid": -2.0}), ranking.cost({"val/kid": 3.0})
    assert (low < high) is (mode == "min")
    assert math.isfinite(low)


def test_patience_counts_the_metric_of_the_ranking():
    """A run stops, where higher is better, after two values that are no higher; the loss does not count."""
    state, hooks, seen = tiny_state(), SimpleNamespace(log=lambda *_: None), []
    ranking = Ranking("val/accuracy", "max")
    for accuracy, loss in ((0.5, 9.0), (0.7, 1.0), (0.6, 0.5), (0.7, 0.4)):
        validate_average(
            state, 2, hooks, World(), lambda _, a=accuracy, b=loss: {"val/accuracy": a, "val/loss": b}, ranking
        )
        seen.append((state.best, state.stale, state.stopped))
    assert seen == [(-0.5, 0, False), (-0.7, 0, False), (-0.7, 1, False), (-0.7, 2, True)]


def test_measurements_without_the_metric_do_not_count():
    state, hooks = tiny_state(), SimpleNamespace(log=lambda *_: None)
    for _ in range(5):
        validate_average(state, 1, hooks, World(), lambda _: {"val/loss": 1.0}, Ranking("val/kid"))
    assert (state.stale, state.stopped) == (0, False)


def test_a_checkpoint_is_measured_once_and_without_effect_on_patience():
    """A measurement of the same step is used again; one for the ranking alone leaves the counters as they are."""
    state, calls = tiny_state(), []
    hooks = SimpleNamespace(log=lambda step, metrics: calls.append((step, metrics)))

    def measure(_):
        return {"val/loss": 7.0}

    validate_average(state, 3, hooks, World(), measure)
    rank_checkpoint(state, Ranking(), hooks, World(), measure)
    assert calls == [(0, {"val/loss": 7.0})]
    state.step = 4
    assert state.metrics == {}
    rank_checkpoint(state, Ranking(), hooks, World(), measure)
    assert calls[1:] == [(4, {"val/loss": 7.0})]
    assert (state.best, state.stale) == (7.0, 0)


def test_the_metrics_of_a_step_are_part_of_its_checkpoint_alone():
    """They come back with the state; a step without a measurement stores none, as before there were any."""
    state = tiny_state()
    state.step = 3
    state.note_metrics({"val/loss": 0.5, "val/denoising": math.nan})
    state.note_metrics({"val/kid": 0.25})
    stored = state.values()
    assert stored["metrics"] == {"val/loss": 0.5, "val/denoising": None, "val/kid": 0.25}
    again = tiny_state()
    again.load_values(stored)
    assert again.metrics == stored["metrics"]
    assert again.values() == stored
    again.step = 4
    assert "metrics" not in again.values()
