"""The checkpoints of a run that stay: the newest, the best by a metric, and those of certain steps.

Each checkpoint stores the metrics that were measured at its step. The choice is therefore a function of the checkpoints
in the run's folder, on Ray and without it, and before and after a kill.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raysde.checkpoints.description import Description, Kept
from raysde.training.ranking import BY_LOSS, Ranking


@dataclass(frozen=True)
class Retention:
    """The number of checkpoints that stay.

    Attributes:
        newest: number of the newest checkpoints, at least 1.
        best: number of the best checkpoints, also if they are among the newest.
        ranking: metric that ranks them.
        every: steps between checkpoints that stay for good: the first one in each such interval from step ``every`` on;
            0 for none.
    """

    newest: int
    best: int = 0
    ranking: Ranking = BY_LOSS
    every: int = 0

    def choose_old(self, found: Sequence[Kept]) -> list[Kept]:
        """Return the checkpoints to delete.

        Args:
            found: whole checkpoints by descending step.
        """
        kept = {each.path for each in [*found[: self.newest], *rank_checkpoints(found, self.ranking)[: self.best]]}
        if self.every:
            first = {each.step // self.every: each.path for each in found}  # the last of equal keys has the lowest step
            kept |= {path for number, path in first.items() if number > 0}
        return [each for each in found if each.path not in kept]


def rank_checkpoints(found: Sequence[Kept], ranking: Ranking) -> list[Kept]:
    """Return the whole checkpoints that have a finite value of the metric, best first; of equal ones the earlier."""
    costs = [(checkpoint_cost(each.description, ranking), each.step, each) for each in found if each.description]
    return [each for cost, _, each in sorted(costs, key=lambda item: item[:2]) if math.isfinite(cost)]


def checkpoint_cost(description: Description, ranking: Ranking) -> float:
    """Return the metric of a checkpoint such that lower is better; infinity if it was not measured at its step."""
    return ranking.cost(checkpoint_metrics(description))


def checkpoint_metrics(description: Description) -> dict[str, Any]:
    """Return the metrics that were measured at a checkpoint's step, None for values that are not finite."""
    found = description.state.get("metrics")
    return found if isinstance(found, dict) else {}
