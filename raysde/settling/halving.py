"""Few images for all, many for the best: successive halving, and a winner that is no dearer than it must be.

Jamieson and Talwalkar 2016, "Non-stochastic best arm identification and hyperparameter optimization", arXiv 1502.07943:
each round measures what is left on more images and keeps a part. All are drawn from the same noise, and a round waits
for all of its figures, so that the outcome does not depend on how many work on it, or who is faster.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from raysde.figures import Better, Figure, margin
from raysde.settling.space import Candidate

FACTOR = 3
"""One in so many goes on to a round of so many times the images."""

Measure = Callable[[Sequence[Candidate], int], Sequence[Figure]]
"""``measure(candidates, samples)``: the figure of each on the images 0 to samples - 1 of the seed."""


@dataclass(frozen=True)
class Outcome:
    """A candidate with its figure on the most images that it was measured on."""

    candidate: Candidate
    figure: Figure


@dataclass(frozen=True)
class Settled:
    """What came out.

    Attributes:
        winner: the cheapest of those that the best is not better than beyond the interval of the margin.
        best: the one with the best figure.
        outcomes: of all candidates, those measured on the most images first, and the better ones before the worse.
    """

    winner: Outcome
    best: Outcome
    outcomes: list[Outcome]


def rounds(samples: int, count: int) -> list[int]:
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


def settle(candidates: Sequence[Candidate], images: Sequence[int], better: Better, measure: Measure) -> Settled:
    """Measures candidates round by round.

    Args:
        images: of each round, see :func:`rounds`.
        better: the better direction of the figures.

    Raises:
        ValueError: if two candidates have figures that cannot be compared.
    """
    left = list(candidates)
    done: list[list[Outcome]] = []
    for number, samples in enumerate(images, start=1):
        figures = measure(left, samples)
        outcomes = ranked([Outcome(*each) for each in zip(left, figures, strict=True)], better)
        if number == len(images):
            return Settled(winner(outcomes, better), outcomes[0], [*outcomes, *reversed_rounds(done)])
        kept = survivors(outcomes, better)
        done.append([each for each in outcomes if each not in kept])
        left = [each.candidate for each in kept]
    raise AssertionError("there is a last round")


def reversed_rounds(done: Sequence[Sequence[Outcome]]) -> list[Outcome]:
    """Who left in the last round first."""
    return [each for outcomes in reversed(done) for each in outcomes]


def ranked(outcomes: Sequence[Outcome], better: Better) -> list[Outcome]:
    """The best first; of equal figures the cheaper."""
    sign = 1.0 if better == "lower" else -1.0
    return sorted(outcomes, key=lambda each: (sign * each.figure.value, each.candidate.evaluations))


def winner(outcomes: Sequence[Outcome], better: Better) -> Outcome:
    """The cheapest of the ``ranked`` outcomes among those that the first is not better than beyond the interval of
    :func:`raysde.figures.margin`; of equally cheap ones the better.

    The figures come from the same noise and go up and down together, so that the interval is too wide rather than too
    narrow: what is called worse is worse.
    """
    best = outcomes[0]
    tied = [each for each in outcomes if margin(best.figure, each.figure, better).low <= 0.0]
    return min(tied, key=lambda each: each.candidate.evaluations)


def survivors(outcomes: Sequence[Outcome], better: Better) -> list[Outcome]:
    """One in FACTOR of the ``ranked`` outcomes, at least two; who would win now is one of them."""
    kept = list(outcomes[: max(2, math.ceil(len(outcomes) / FACTOR))])
    now = winner(outcomes, better)
    return kept if now in kept else [*kept[:-1], now]
