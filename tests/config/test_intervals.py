"""Intervals in steps or in time."""

import pytest

from raysde.config import loading
from raysde.config.intervals import seconds_of, steps_of


@pytest.mark.parametrize(
    ("given", "steps", "seconds"),
    [(1000, 1000, 0.0), (0, 0, 0.0), ("90s", 0, 90.0), ("10min", 0, 600.0), ("10 min", 0, 600.0), ("1.5h", 0, 5400.0)],
)
def test_an_interval_is_steps_or_a_time(recipe, given, steps, seconds):
    found = loading.parse_recipe(recipe(checkpoint_every=given)).checkpoint_every
    assert (found, steps_of(found), seconds_of(found)) == (given, steps, seconds)


@pytest.mark.parametrize("given", [-1, 2.5, True, "10", "0min", "10 minutes", "-5s", "min", None])
def test_what_is_neither_is_refused(recipe, given):
    with pytest.raises(ValueError, match=r"checkpoint_every: .*neither a number of steps, such as 1000, nor a time"):
        loading.parse_recipe(recipe(checkpoint_every=given))
