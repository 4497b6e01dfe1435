"""Successive halving: all candidates on few images, the best on many; the cheapest of equally good ones wins.

Jamieson and Talwalkar 2016, "Non-stochastic best arm identification and hyperparameter optimization", arXiv 1502.07943:
each round measures the remaining candidates on more images and keeps a part. All use the same noise and the same real
images, so two candidates are compared image by image, which separates them where their intervals overlap. A round waits
for all of its metrics, so the outcome does not depend on the number or the speed of workers.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from raysde.evaluation.metric import Better, Margin, Metric, describe_mismatch
from raysde.evaluation.metrics.intervals import normal_interval
from raysde.evaluation.metrics.jackknife import Influence
from raysde.tuning.sampler.space import Candidate

FACTOR = 3
"""Factor by which the candidates shrink and the images grow from round to round."""


@dataclass(frozen=True)
class CandidateOutcome:
    """A candidate with its metric on the most images that it was measured on, and each image's influence on it.

    Attributes:
        figure: the metric with its confidence interval.
    """

    candidate: Candidate
    figure: Metric
    influence: Influence = field(repr=False, compare=False)


MeasureCandidates = Callable[[Sequence[Candidate], int], Sequence[CandidateOutcome]]
"""``measure(candidates, samples)`` returns the outcome of each on the images 0 to samples - 1 of the seed."""


@dataclass(frozen=True)
class Settled:
    """The result of a search.

    Attributes:
        winner: the cheapest candidate that the best is not ahead of beyond the interval of :func:`compare_paired`.
        best: the candidate with the best metric.
        outcomes: all candidates, latest round first, and within a round the better before the worse.
        better: the better direction of the metric.
    """

    winner: CandidateOutcome
    best: CandidateOutcome
    outcomes: list[CandidateOutcome]
    better: Better

    def behind(self, outcome: CandidateOutcome) -> Margin | None:
        """Return the margin of the best over another candidate; None for itself and for those of earlier rounds.

        Raises:
            ValueError: if the two cannot be compared.
        """
        if outcome is self.best or outcome.figure.samples != self.best.figure.samples:
            return None
        return compare_paired(self.best, outcome, self.better)


def round_sizes(samples: int, count: int) -> list[int]:
    """Return the number of images of each of ``count`` rounds, the last with ``samples``.

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
    """Measure candidates round by round.

    Args:
        images: number of images in each round, see :func:`round_sizes`.
        better: the better direction of the metric.

    Raises:
        ValueError: if two candidates have metrics that cannot be compared.
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
    """Return the eliminated candidates, most recent round first."""
    return [each for outcomes in reversed(done) for each in outcomes]


def rank_outcomes(outcomes: Sequence[CandidateOutcome], better: Better) -> list[CandidateOutcome]:
    """Sort outcomes, the best first; of equal metrics the cheaper."""
    sign = 1.0 if better == "lower" else -1.0
    return sorted(outcomes, key=lambda each: (sign * each.figure.value, each.candidate.evaluations))


def compare_paired(first: CandidateOutcome, second: CandidateOutcome, better: Better) -> Margin:
    """Return the margin of the first over the second, with the 95% interval of a paired comparison.

    Raises:
        ValueError: if the two cannot be compared.
    """
    if said := describe_mismatch(first.figure, second.figure):
        raise ValueError(f"{first.candidate} and {second.candidate} cannot be compared: {said}")
    sign = 1.0 if better == "higher" else -1.0
    value = sign * (first.figure.value - second.figure.value)
    return Margin(value, *normal_interval(value, (first.influence - second.influence).error))


def choose_winner(outcomes: Sequence[CandidateOutcome], better: Better) -> CandidateOutcome:
    """Return the cheapest of the ranked outcomes that the first is not ahead of beyond the interval; of equally cheap
    ones the better.

    Raises:
        ValueError: if two of them cannot be compared.
    """
    tied = [outcomes[0], *(each for each in outcomes[1:] if compare_paired(outcomes[0], each, better).low <= 0.0)]
    return min(tied, key=lambda each: each.candidate.evaluations)


def choose_survivors(outcomes: Sequence[CandidateOutcome], better: Better) -> list[CandidateOutcome]:
    """Return one in FACTOR of the ranked outcomes, at least two; the current winner is always among them."""
    kept = list(outcomes[: max(2, math.ceil(len(outcomes) / FACTOR))])
    now = choose_winner(outcomes, better)
    return kept if now in kept else [*kept[:-1], now]
