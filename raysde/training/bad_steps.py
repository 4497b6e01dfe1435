"""Bad steps: losses and gradients that are not finite, spikes of the loss, and the record of what was left out.

A loss is a spike if its robust z-score over a window of earlier losses, (loss - median) / (1.4826 MAD), is above a
threshold; MAD is the median absolute deviation (Iglewicz and Hoaglin 1993, "How to Detect and Handle Outliers"). The
return to a checkpoint, and the passing over of the batches since then, follow Chowdhery et al. 2022, "PaLM", arXiv
2204.02311, section 5.1.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import NormalDist, median
from typing import Any, Literal

from raysde.io.amounts import amount
from raysde.sde.setting import setting

OnBadStep = Literal["stop", "skip", "rollback"]
MAD_TO_STD = 1.0 / NormalDist().inv_cdf(0.75)
"""Standard deviation of a normal distribution in units of its median absolute deviation, about 1.4826."""
FEWEST = 3
"""Smallest window: fewer losses have no spread around their median."""


@dataclass(frozen=True, kw_only=True)
class BadStepRule:
    """The definition of a bad step, and the number of bad steps after which a run stops.

    Raises:
        ValueError: if the window has fewer than 3 losses, or a number is negative or no number.
    """

    window: int = setting(
        100,
        "earlier losses that a loss is compared with, without those of bad steps; no loss is a spike before there are "
        "as many",
    )
    threshold: float | None = setting(
        20.0,
        "robust z-score above which a loss is a spike: (loss - median) / (1.4826 MAD) over the window, where MAD is "
        "the median absolute deviation; null: only losses and gradients that are not finite are bad",
    )
    most: int = setting(20, "largest number of bad steps in a run; one more ends it")

    def __post_init__(self) -> None:
        if self.window < FEWEST:
            raise ValueError(f"window must be at least {FEWEST} losses, got {self.window}")
        if self.threshold is not None and not 0.0 < self.threshold < math.inf:
            raise ValueError(f"threshold must be a positive number or null, got {self.threshold}")
        if self.most < 0:
            raise ValueError(f"most must be 0 or more, got {self.most}")


@dataclass
class BadSteps:
    """The record of a run's bad steps, a part of its training state.

    Attributes:
        skipped: number of steps whose update was left out.
        rollbacks: number of returns to a checkpoint.
        left_out: ranges [first, stop) of plan positions that the returns passed over, in order.
        losses: losses of the latest good steps, averaged over ranks; no more than the window.
        base: step of the checkpoint to return to; None for a run that does not return.
    """

    skipped: int = 0
    rollbacks: int = 0
    left_out: list[tuple[int, int]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    base: int | None = None

    @property
    def count(self) -> int:
        """Number of bad steps."""
        return self.skipped + self.rollbacks

    @property
    def passed(self) -> int:
        """Number of plan positions that were passed over."""
        return sum(stop - first for first, stop in self.left_out)

    def position(self, step: int) -> int:
        """Return the plan position of the global batch of step ``step``, counted from 0."""
        position = step
        for first, stop in self.left_out:
            position += stop - first if position >= first else 0
        return position

    def pass_over(self, first: int, stop: int) -> None:
        """Leave out the plan positions ``first`` to ``stop - 1``, all beyond those left out so far."""
        earlier, start = self.left_out, first
        if earlier and earlier[-1][1] == first:
            *earlier, (start, _) = earlier
        assert not earlier or earlier[-1][1] < start < stop
        self.left_out = [*earlier, (start, stop)]

    def note_loss(self, loss: float, window: int) -> None:
        """Add the loss of a good step, and forget all but the last ``window``."""
        self.losses = [*self.losses, loss][-window:]

    def metrics(self) -> dict[str, float]:
        """Return the numbers of bad steps and of plan positions passed over, as metrics; empty without bad steps."""
        found = {"skipped_steps": self.skipped, "rollbacks": self.rollbacks, "batches_passed_over": self.passed}
        return {f"train/{name}": float(value) for name, value in found.items()} if self.count else {}

    def summary(self) -> str:
        """Return the numbers of bad steps in words."""
        passed = ", ".join(f"{first} to {stop - 1}" for first, stop in self.left_out)
        where = f", which passed over the global batches {passed}" if passed else ""
        return f"Bad steps: {self.skipped} skipped, {amount(self.rollbacks, 'return')} to a checkpoint{where}"

    def values(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return asdict(self)

    @classmethod
    def from_values(cls, values: Mapping[str, Any] | None) -> "BadSteps":
        """Return the record of :meth:`values`; an empty one for None, since older checkpoints have none."""
        found = cls(**values or {})
        found.left_out = [(first, stop) for first, stop in found.left_out]
        return found


def robust_score(loss: float, losses: Sequence[float]) -> float:
    """Return the robust z-score of ``loss`` among earlier ``losses``; 0 if more than half of those are equal."""
    centre = median(losses)
    spread = MAD_TO_STD * median(abs(each - centre) for each in losses)
    return (loss - centre) / spread if spread > 0.0 else 0.0


def find_loss_fault(loss: float, losses: Sequence[float], rule: BadStepRule) -> str:
    """Return the fault of a loss: not finite, or a spike among earlier ``losses``; an empty string for a good loss."""
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if rule.threshold is None or len(losses) < rule.window:
        return ""
    score = robust_score(loss, losses[-rule.window :])
    if score <= rule.threshold:
        return ""
    return f"the loss is {loss:.6g}, a spike with a robust z-score of {score:.3g} over {rule.window} losses"


def find_gradient_fault(norm: float) -> str:
    """Return the fault of a gradient that is not finite, from its norm; an empty string for a good one."""
    return "" if math.isfinite(norm) else f"the gradient's norm is {norm}"
