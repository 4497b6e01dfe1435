"""The metric by which a run's checkpoints are ranked, and by which it stops early."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Mode = Literal["min", "max"]


@dataclass(frozen=True)
class Ranking:
    """A metric and its better direction.

    Attributes:
        by: name of the metric, as it is logged.
        mode: min if lower values are better, max if higher ones are.
    """

    by: str = "val/loss"
    mode: Mode = "min"

    @staticmethod
    def of(recipe: Mapping[str, Any]) -> "Ranking":
        """Return the ranking of a flat recipe; recipes from before ``keep`` rank by the validation loss."""
        return Ranking(recipe.get("keep.by", Ranking.by), recipe.get("keep.mode") or Ranking.mode)

    def cost(self, metrics: Mapping[str, float | None]) -> float:
        """Return the metric with a sign such that lower is better; infinity if it is missing or not finite."""
        value = metrics.get(self.by)
        if value is None or not math.isfinite(value):
            return math.inf
        return value if self.mode == "min" else -value


BY_LOSS = Ranking()
"""The usual ranking: the validation loss."""
