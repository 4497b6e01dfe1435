"""Paired comparisons of sampler settings in rounds of more and more images, and the choice of the winner."""

import pytest
import torch
from scipy.stats import norm, sem

from raysde.evaluation.metric import Metric
from raysde.evaluation.metrics.jackknife import Influence
from raysde.tuning.sampler.space import Candidate
from raysde.tuning.sampler.successive_halving import (
    CandidateOutcome,
    choose_survivors,
    choose_winner,
    compare_paired,
    halve_successively,
    rank_outcomes,
    round_sizes,
)
from tests.support.outcomes import made_up_outcome, outcome_of


def test_two_outcomes_are_compared_image_by_image():
    """Intervals of +-30 on both sides do not hide a difference of 1 that every image shows; for images that a judge
    reads right or wrong the interval is scipy's for the mean of differences."""
    one, two = made_up_outcome(10.0, 40, 30.0, noise=5), made_up_outcome(11.0, 10, 30.0, noise=5)
    assert str(compare_paired(one, two, "lower")) == "1 [1, 1]"
    assert choose_winner([one, two], "lower") is one
    g = torch.Generator().manual_seed(0)
    read = [(torch.rand(400, generator=g) < share).double() for share in (0.9, 0.8)]
    figures = [Metric("accuracy", each.mean().item(), 0.0, 1.0, 400, 0) for each in read]
    first, second = (
        CandidateOutcome(Candidate(None, {}, 1.0), figure, Influence({"drawn": each}, {"drawn": 400}))
        for figure, each in zip(figures, read, strict=True)
    )
    apart = (read[0] - read[1]).numpy()
    expected = norm.interval(0.95, apart.mean(), sem(apart))
    found = compare_paired(first, second, "higher")
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-5)
    assert compare_paired(second, first, "higher").value == -found.value
    with pytest.raises(ValueError, match="steps=1 and steps=2 cannot be compared: the number of samples"):
        compare_paired(made_up_outcome(1.0, 1), made_up_outcome(1.0, 2, samples=65), "lower")


def test_the_cheapest_of_those_that_cannot_be_told_apart_wins():
    """With independent errors of +-3 on both sides, hypot(3, 3) = 4.24 covers a difference of 4, and not one of 5."""
    best, cheap, cheaper = (
        made_up_outcome(10.0, 40, 3.0),
        made_up_outcome(14.0, 20, 3.0),
        made_up_outcome(15.0, 10, 3.0),
    )
    found = rank_outcomes([cheaper, cheap, best], "lower")
    assert found == [best, cheap, cheaper]
    assert choose_winner(found, "lower") is cheap
    assert choose_winner(rank_outcomes([best, cheaper], "lower"), "lower") is best
    high = [
        made_up_outcome(0.9, 40, 0.02, "accuracy"),
        made_up_outcome(0.88, 20, 0.02, "accuracy"),
        made_up_outcome(0.5, 5, 0.02, "accuracy"),
    ]
    assert choose_winner(rank_outcomes(high, "higher"), "higher") is high[1]
    alike = [made_up_outcome(0.9 - 0.01 * each, 20, 0.02, "accuracy", noise=each + 1) for each in (0, 1)]
    assert choose_winner(rank_outcomes(alike, "higher"), "higher") is alike[0]
    same = [made_up_outcome(1.0, 20), made_up_outcome(1.0, 10)]
    assert rank_outcomes(same, "lower")[0] is same[1]


def test_a_third_goes_on_and_who_would_win_now():
    many = [made_up_outcome(float(value), 100 - value, 0.1) for value in range(9)]
    assert choose_survivors(many, "lower") == many[:3]
    wide = [made_up_outcome(float(value), 100 - value, 100.0) for value in range(9)]
    assert choose_survivors(wide, "lower") == [*wide[:2], wide[8]]
    assert len(choose_survivors(many[:3], "lower")) == 2


def test_rounds_rise_by_three_to_what_is_asked_for():
    assert round_sizes(2000, 3) == [223, 667, 2000]
    assert round_sizes(50, 1) == [50]
    for samples, count in ((100, 0), (0, 2)):
        with pytest.raises(ValueError, match="must be at least 1"):
            round_sizes(samples, count)


def test_halving_measures_few_images_of_all_and_many_of_the_best():
    """Candidate k has the value k; each round measures only the survivors, and the table keeps the eliminated ones."""
    given = [Candidate(None, {"steps": steps}, float(steps)) for steps in range(1, 13)]
    asked = []

    def measure(left, samples):
        asked.append((len(left), samples))
        return [outcome_of(each, each.evaluations, samples) for each in left]

    found = halve_successively(given, [10, 30, 90], "lower", measure)
    assert asked == [(12, 10), (4, 30), (2, 90)]
    assert found.winner is found.best is found.outcomes[0]
    assert [each.candidate.evaluations for each in found.outcomes] == [float(steps) for steps in range(1, 13)]
    assert [each.figure.samples for each in found.outcomes] == [90] * 2 + [30] * 2 + [10] * 8
