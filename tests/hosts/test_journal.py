"""The check of journals finds each kind of mistake; on journals that a correct run would write, it finds none."""

from types import SimpleNamespace

import numpy as np
import pytest

from raysde.data.batches.feed import Feed
from raysde.data.batches.plan import Plan
from tests.hosts.journal import check_rows

PLAN = Plan(rows=48, batch=12, microbatch=4, seed=3)
RUN = SimpleNamespace(steps=6, plan=PLAN, feed=Feed(PLAN, np.arange(48)))


def lines(group: str, steps: range) -> list[dict]:
    """Return what the workers of a group write that runs ``steps``."""
    return [
        {"group": group, "time": float(step), "step": step, "rows": RUN.feed.rows[PLAN.rows_of(step, index)].tolist()}
        for step in steps
        for index in range(PLAN.microbatches)
    ]


def test_a_restart_repeats_steps():
    assert check_rows(lines("a", range(6)), RUN) == 0
    half = lines("a", range(5))[:-1]  # killed in the middle of step 4
    assert check_rows(half + lines("b", range(3, 6)), RUN) == 2


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (lines("a", range(5)), "step 5 did not run"),
        (lines("a", range(6))[:-1], "step 5 missed"),
        (lines("a", range(4)) + lines("b", range(5, 6)), "step 4 did not run"),
        (lines("a", range(6)) + lines("a", range(5, 6)), "step 5 missed .* too much"),
        ([*lines("a", range(6))[1:], {**lines("a", range(1))[0], "rows": [1, 2, 3, 4]}], "step 0 missed"),
        ([{**lines("a", range(1))[0], "rows": [1, 2, 3, 4]}, *lines("b", range(6))], "step 0 has rows"),
        (lines("a", range(6)) + lines("b", range(4, 6))[:-1], "step 5 missed"),
    ],
)
def test_rows_that_are_not_planned_are_found(found, said):
    """A step that no group ran or finished, a microbatch twice in a group, and rows of another plan."""
    with pytest.raises(AssertionError, match=said):
        check_rows(found, RUN)
