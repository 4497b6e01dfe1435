"""Settings of Ray Data in processes of raysde: no progress bars, and a pause while it may read nothing.

The executor of Ray 2.60 waits for any of its tasks, also for finished ones whose outputs it may not read because the
blocks already made fill its share of the object store. That wait ends at once, so from then on the executor spins, and
takes half a core from training.
"""

import time
from typing import TYPE_CHECKING, Any

import ray.data
from ray.data._internal.execution.backpressure_policy import (
    ENABLED_BACKPRESSURE_POLICIES,
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
    BackpressurePolicy,
    DownstreamCapacityBackpressurePolicy,
    ResourceBudgetBackpressurePolicy,
)

if TYPE_CHECKING:
    from ray.data._internal.execution.interfaces import PhysicalOperator

PAUSE = 0.2
"""Seconds. Workers go on reading the blocks that fill the share meanwhile; every look at all tasks costs 2.5 ms."""


def pause_if_exhausted(limit: int | None) -> int | None:
    """Return the bytes that may be read, after a pause if there are none; None means no limit."""
    if limit == 0:
        time.sleep(PAUSE)
    return limit


class RestingBudget(ResourceBudgetBackpressurePolicy):
    """Ray Data's limit by the budget of an operator, with a pause when nothing may be read."""

    def max_task_output_bytes_to_read(self, op: "PhysicalOperator") -> int | None:
        return pause_if_exhausted(super().max_task_output_bytes_to_read(op))


class RestingCapacity(DownstreamCapacityBackpressurePolicy):
    """Ray Data's limit by what comes after an operator, with a pause when nothing may be read."""

    def max_task_output_bytes_to_read(self, op: "PhysicalOperator") -> int | None:
        return pause_if_exhausted(super().max_task_output_bytes_to_read(op))


RESTING: dict[Any, type[BackpressurePolicy]] = {
    ResourceBudgetBackpressurePolicy: RestingBudget,
    DownstreamCapacityBackpressurePolicy: RestingCapacity,
}


def set_up_data() -> None:
    """Set up the data sets that this process makes from now on."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    policies = [RESTING.get(policy, policy) for policy in ENABLED_BACKPRESSURE_POLICIES]
    context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, policies)
