"""Asynchronous successive halving: a trial goes on past a rung only if it is among the best that reached it so far.

Li et al. 2020 (arXiv 1810.05934), in the variant that stops trials and never pauses one; the same decisions as Ray
Tune's ASHAScheduler with one bracket. Its state is what it was told, so telling it again restores it.
"""

import math
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Halving:
    """The rungs and who passed them.

    Attributes:
        grace: budget that no trial is stopped before: the first rung.
        reduction: each rung lies this many times higher than the one below, and about 1 in as many trials goes on.
        longest: budget of a whole trial; every rung lies below it.
    """

    grace: float
    reduction: float
    longest: float
    rungs: list[tuple[float, dict[int, float]]] = field(init=False)

    def __post_init__(self) -> None:
        assert self.grace > 0
        assert self.reduction > 1
        budget = self.grace
        self.rungs = []
        while budget < self.longest:
            self.rungs.insert(0, (budget, {}))
            budget *= self.reduction

    def stops(self, trial: int, budget: float, value: float) -> bool:
        """Whether a trial ends with this value, of which less is better, at this budget.

        The value counts at the highest rung that the trial has reached and has no value at yet. One that is not finite
        stops there and counts nowhere.
        """
        for rung, values in self.rungs:
            if budget < rung or trial in values:
                continue
            if not math.isfinite(value):
                return True
            worse = bool(values) and value > float(np.percentile(list(values.values()), 100.0 / self.reduction))
            values[trial] = value
            return worse
        return False
