"""Early stopping: Ray Tune's decisions, and rungs."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from raysde.tuning.training.asha import Halving

# early stopping


@pytest.mark.parametrize("reduction", [2, 3, 4])
def test_halving_decides_as_ray_tune_does(reduction):
    """Compare with ASHAScheduler's stops on random curves of 40 trials whose reports come in a random order."""
    from ray.tune.schedulers import ASHAScheduler

    rng = np.random.default_rng(reduction)
    ours = Halving(5, reduction, 200)
    theirs = ASHAScheduler(time_attr="t", metric="m", mode="min", grace_period=5, reduction_factor=reduction, max_t=200)
    alive, seen, stopped = dict.fromkeys(range(40), 0), 0, 0
    for trial in alive:
        theirs.on_trial_add(None, SimpleNamespace(trial_id=str(trial)))
    while alive:
        trial = int(rng.choice(list(alive)))
        alive[trial] += int(rng.integers(1, 9))
        if alive[trial] >= 200:
            del alive[trial]
            continue
        value = float(rng.normal(trial / 40, 0.3) - math.log(alive[trial]))
        expected = theirs.on_trial_result(None, SimpleNamespace(trial_id=str(trial)), {"t": alive[trial], "m": value})
        assert ours.stops(trial, alive[trial], value) == (expected == "STOP")
        seen += 1
        if expected == "STOP":
            stopped += 1
            del alive[trial]
    assert stopped > 10
    assert seen > 100


@pytest.mark.parametrize(("reduction", "passes"), [(2, 2.0), (4, 1.5), (3, 5 / 3)])
def test_a_rung_is_passed_by_the_best_part(reduction, passes):
    """After values 1, 2 and 3, values up to the linear quantile 1 + 2 / reduction pass, by definition."""
    for value, stops in ((passes, False), (passes + 1e-9, True)):
        halving = Halving(4, reduction, 64)
        for trial, known in enumerate((3.0, 2.0, 1.0)):
            halving.stops(trial, 4, known)
        assert halving.stops(9, 4, value) == stops


def test_rungs_grow_by_the_reduction_and_lie_below_the_end():
    assert [rung for rung, _ in Halving(3, 4, 200).rungs] == [192, 48, 12, 3]
    assert [rung for rung, _ in Halving(3, 4, 192).rungs] == [48, 12, 3]
    assert [rung for rung, _ in Halving(2, 1.5, 6).rungs] == [4.5, 3.0, 2]


def test_a_report_counts_at_the_highest_rung_it_has_reached():
    """A report may jump over rungs; the rungs below stay open for a later, worse report."""
    halving = Halving(4, 2, 64)
    assert not halving.stops(0, 20, 5.0)
    assert [rung for rung, values in halving.rungs if 0 in values] == [16]
    assert not halving.stops(0, 20, 9.0)  # at the lower rung it is the first value
    assert [rung for rung, values in halving.rungs if 0 in values] == [16, 8]


def test_what_diverged_stops_at_its_first_rung_and_counts_nowhere():
    halving = Halving(4, 2, 64)
    assert not halving.stops(0, 3, math.inf)
    assert halving.stops(0, 4, math.inf)
    assert not halving.stops(1, 4, 5.0)
    assert halving.stops(2, 4, 5.1)


def test_no_trial_is_stopped_at_its_end():
    halving = Halving(4, 2, 16)
    for trial, value in enumerate((1.0, 0.9, 0.8)):
        assert not any(halving.stops(trial, budget, value) for budget in (4, 8))
    assert not halving.stops(0, 16, 9.0)


@pytest.mark.parametrize(("grace", "reduction"), [(0, 4), (8, 1)])
def test_rungs_that_do_not_grow_are_no_endless_loop(grace, reduction):
    with pytest.raises(AssertionError):
        Halving(grace, reduction, 64)
