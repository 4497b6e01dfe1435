"""Asynchronous successive halving: a trial continues past a rung only if it is among the best that reached it so far.

Li et al. 2020 (arXiv 1810.05934), in the variant that stops trials and never pauses one; the same decisions as Ray
Tune's ASHAScheduler with one bracket. Reporting the same values again restores its state.
"""

import math
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Halving:
    """The rungs and the values of the trials that reached them.

    Attributes:
        grace: budget of the first rung; no trial is stopped before it.
        reduction: ratio of the budgets of two rungs; about 1 in ``reduction`` trials passes a rung.
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
        """Return True if a trial with this metric value (lower is better) should stop at this budget.

        The value counts at the highest rung that the trial has reached and has no value at yet. A value that is not
        finite stops the trial there and is not recorded.
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
