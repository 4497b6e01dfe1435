"""Ray Data settings for raysde: no progress bars, and a pause while the executor's output budget is used up.

The executor of Ray 2.60 waits for any of its tasks to finish. Once the blocks already made fill its share of the object
store, it may not read finished outputs, but their tasks still end the wait at once. From then on the executor spins and
takes half a CPU core. The stream of a run needs no pause, since its data sets fit their share and end.
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
"""Pause in seconds. A reader takes a small part of a full object-store share in it; each look takes 2.5 ms of CPU."""


def pause_if_exhausted(limit: int | None) -> int | None:
    """Return ``limit``, the bytes that may be read (None: unlimited), after a pause if it is 0."""
    if limit == 0:
        time.sleep(PAUSE)
    return limit


class RestingBudget(ResourceBudgetBackpressurePolicy):
    """Ray Data's limit by an operator's resource budget, with a pause when nothing may be read."""

    def max_task_output_bytes_to_read(self, op: "PhysicalOperator") -> int | None:
        return pause_if_exhausted(super().max_task_output_bytes_to_read(op))


class RestingCapacity(DownstreamCapacityBackpressurePolicy):
    """Ray Data's limit by the capacity of downstream operators, with a pause when nothing may be read."""

    def max_task_output_bytes_to_read(self, op: "PhysicalOperator") -> int | None:
        return pause_if_exhausted(super().max_task_output_bytes_to_read(op))


RESTING: dict[Any, type[BackpressurePolicy]] = {
    ResourceBudgetBackpressurePolicy: RestingBudget,
    DownstreamCapacityBackpressurePolicy: RestingCapacity,
}


def set_up_data() -> None:
    """Apply these settings to the data sets that this process creates from now on."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    policies = [RESTING.get(policy, policy) for policy in ENABLED_BACKPRESSURE_POLICIES]
    context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, policies)
