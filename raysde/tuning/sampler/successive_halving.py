"""Few images for all, many for the best: successive halving, and a winner that is no dearer than it must be.

Jamieson and Talwalkar 2016, "Non-stochastic best arm identification and hyperparameter optimization", arXiv 1502.07943:
each round measures what is left on more images and keeps a part. All are drawn from the same noise and looked at beside
the same real images, so that two are compared image by image, which tells apart what their intervals do not. A round
waits for all of its figures, so that the outcome does not depend on how many work on it, or who is faster.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from raysde.evaluation.metric import Better, Margin, Metric, describe_mismatch
from raysde.evaluation.metrics.intervals import normal_interval
from raysde.evaluation.metrics.jackknife import Influence
from raysde.tuning.sampler.space import Candidate

FACTOR = 3
"""One in so many goes on to a round of so many times the images."""


@dataclass(frozen=True)
class CandidateOutcome:
    """A candidate with its figure on the most images that it was measured on, and how each of them moves it."""

    candidate: Candidate
    figure: Metric
    influence: Influence = field(repr=False, compare=False)


MeasureCandidates = Callable[[Sequence[Candidate], int], Sequence[CandidateOutcome]]
"""``measure(candidates, samples)``: the outcome of each on the images 0 to samples - 1 of the seed."""


@dataclass(frozen=True)
class Settled:
    """What came out.

    Attributes:
        winner: the cheapest of those that the best is not ahead of beyond the interval of :func:`compare_paired`.
        best: the one with the best figure.
        outcomes: of all candidates, those measured on the most images first, and the better ones before the worse.
        better: the better direction of the figures.
    """

    winner: CandidateOutcome
    best: CandidateOutcome
    outcomes: list[CandidateOutcome]
    better: Better

    def behind(self, outcome: CandidateOutcome) -> Margin | None:
        """By how much the best is ahead of one of the others; None of itself, and of who left in an earlier round."""
        if outcome is self.best or outcome.figure.samples != self.best.figure.samples:
            return None
        return compare_paired(self.best, outcome, self.better)


def round_sizes(samples: int, count: int) -> list[int]:
    """The images of each of ``count`` rounds, the last with ``samples``.

    Raises:
        ValueError: if there is no round, or no image for the first.
    """
    if count < 1:
        raise ValueError(f"--rounds must be at least 1, got {count}")
    found = [math.ceil(samples / FACTOR**left) for left in reversed(range(count))]
    if found[0] < 1:
        raise ValueError(f"--samples must be at least 1, got {samples}")
    return found


def halve_successively(
    candidates: Sequence[Candidate], images: Sequence[int], better: Better, measure: MeasureCandidates
) -> Settled:
    """Measures candidates round by round.

    Args:
        images: of each round, see :func:`round_sizes`.
        better: the better direction of the figures.

    Raises:
        ValueError: if two candidates have figures that cannot be compared.
    """
    left = list(candidates)
    done: list[list[CandidateOutcome]] = []
    for number, samples in enumerate(images, start=1):
        outcomes = rank_outcomes(measure(left, samples), better)
        if number == len(images):
            return Settled(choose_winner(outcomes, better), outcomes[0], [*outcomes, *reversed_rounds(done)], better)
        kept = choose_survivors(outcomes, better)
        done.append([each for each in outcomes if each not in kept])
        left = [each.candidate for each in kept]
    raise AssertionError("there is a last round")


def reversed_rounds(done: Sequence[Sequence[CandidateOutcome]]) -> list[CandidateOutcome]:
    """Who left in the last round first."""
    return [each for outcomes in reversed(done) for each in outcomes]


def rank_outcomes(outcomes: Sequence[CandidateOutcome], better: Better) -> list[CandidateOutcome]:
    """The best first; of equal figures the cheaper."""
    sign = 1.0 if better == "lower" else -1.0
    return sorted(outcomes, key=lambda each: (sign * each.figure.value, each.candidate.evaluations))


def compare_paired(first: CandidateOutcome, second: CandidateOutcome, better: Better) -> Margin:
    """By how much the first is better than the second, with the interval of 95% of a paired comparison.

    Raises:
        ValueError: if the two cannot be compared.
    """
    if said := describe_mismatch(first.figure, second.figure):
        raise ValueError(f"{first.candidate} and {second.candidate} cannot be compared: {said}")
    sign = 1.0 if better == "higher" else -1.0
    value = sign * (first.figure.value - second.figure.value)
    return Margin(value, *normal_interval(value, (first.influence - second.influence).error))


def choose_winner(outcomes: Sequence[CandidateOutcome], better: Better) -> CandidateOutcome:
    """The cheapest of the ranked outcomes among those that the first is not ahead of beyond the interval; of
    equally cheap ones the better."""
    tied = [outcomes[0], *(each for each in outcomes[1:] if compare_paired(outcomes[0], each, better).low <= 0.0)]
    return min(tied, key=lambda each: each.candidate.evaluations)


def choose_survivors(outcomes: Sequence[CandidateOutcome], better: Better) -> list[CandidateOutcome]:
    """One in FACTOR of the ranked outcomes, at least two; who would win now is one of them."""
    kept = list(outcomes[: max(2, math.ceil(len(outcomes) / FACTOR))])
    now = choose_winner(outcomes, better)
    return kept if now in kept else [*kept[:-1], now]
