"""Bad steps: the robust score, which losses are bad, and the record of plan positions that were passed over."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from raysde.config import loading
from raysde.training.bad_steps import BadStepRule, BadSteps, find_gradient_fault, find_loss_fault, robust_score


@pytest.mark.parametrize("count", [3, 10, 101])
def test_the_score_is_scipys(count):
    losses = np.random.default_rng(count).gamma(2.0, size=count)
    spread = stats.median_abs_deviation(losses, scale="normal")
    for loss in (0.0, losses[0], 7.0):
        expected = (loss - np.median(losses)) / spread
        assert robust_score(loss, losses.tolist()) == pytest.approx(expected, rel=1e-12)


def test_the_score_of_normal_losses_is_their_z_score():
    """Among quantiles of a normal distribution, the score of mean + k std is k, up to the grid of the quantiles."""
    losses = stats.norm.ppf((np.arange(1001) + 0.5) / 1001, loc=3.0, scale=0.2).tolist()
    for k in (-2.0, 0.0, 5.0):
        assert robust_score(3.0 + 0.2 * k, losses) == pytest.approx(k, abs=0.01)


def test_one_outlier_in_the_window_does_not_hide_the_next():
    """A mean and standard deviation would give the second of two equal outliers a score of at most sqrt(n)."""
    losses = [1.0, 1.1, 0.9, 1.05, 0.95, 1.02, 0.98, 1000.0]
    assert robust_score(1000.0, losses) > 1000.0


RULE = BadStepRule(window=5, threshold=10.0)
CALM = [1.0, 1.1, 0.9, 1.2, 0.8]
EDGE = 1.0 + 10.0 * 0.1 * stats.norm.ppf(0.75) ** -1
"""The loss at the threshold: the window's median is 1 and its MAD is 0.1."""


@pytest.mark.parametrize(
    ("loss", "losses", "rule", "fault"),
    [(EDGE - 1e-9, CALM, RULE, ""),
     (EDGE + 1e-9, CALM, RULE, "a spike"),
     (-1e9, CALM, RULE, ""),  # a fall is no spike
     (1e9, CALM[1:], RULE, ""),  # a window that is not full
     (EDGE + 1e-9, [*([50.0] * 9), *CALM], RULE, "a spike"),  # losses before the window
     (1e9, CALM, BadStepRule(window=5, threshold=None), ""),
     (1e9, [1.0] * 4 + [2.0], RULE, ""),  # no spread
     (math.nan, [], RULE, "the loss is nan"),
     (math.inf, CALM, BadStepRule(threshold=None), "the loss is inf"),
     (-math.inf, CALM, RULE, "the loss is -inf")],
)  # fmt: skip
def test_which_losses_are_bad(loss, losses, rule, fault):
    found = find_loss_fault(loss, losses, rule)
    assert fault in found
    assert bool(fault) == bool(found)


def test_which_gradients_are_bad():
    assert [bool(find_gradient_fault(norm)) for norm in (0.0, 1e30, math.inf, math.nan)] == [False, False, True, True]


def test_positions_are_those_of_the_plan_without_what_was_passed_over():
    """Step k takes the k-th position that is not left out, by enumeration, whatever the order of returns allows."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        record, stop = BadSteps(), 0
        for length, gap in rng.integers(0, 4, (int(rng.integers(0, 5)), 2)):
            first, stop = stop + int(gap), stop + int(gap) + 1 + int(length)
            record.pass_over(first, stop)
        left = {position for first, end in record.left_out for position in range(first, end)}
        kept = [position for position in range(200) if position not in left]
        assert [record.position(step) for step in range(100)] == kept[:100]
        assert record.passed == len(left)
        # ranges that touch are one
        assert all(end < first for (_, end), (first, _) in zip(record.left_out, record.left_out[1:], strict=False))


def test_the_window_forgets_the_oldest_losses():
    record = BadSteps()
    for loss in range(7):
        record.note_loss(float(loss), 3)
    assert record.losses == [4.0, 5.0, 6.0]
    record.note_loss(7.0, 2)  # a resumed run may have a shorter window
    assert record.losses == [6.0, 7.0]


def test_a_record_survives_json():
    record = BadSteps(skipped=1, rollbacks=2, left_out=[(3, 5), (8, 9)], losses=[0.1, 1e-17, 3.0], base=4)
    assert BadSteps.from_values(json.loads(json.dumps(record.values()))) == record
    assert BadSteps.from_values(None) == BadSteps()


@pytest.mark.parametrize(
    ("values", "message"),
    [({"window": 2}, "window must be at least 3"), ({"threshold": 0.0}, "threshold must be a positive number or null"),
     ({"threshold": math.nan}, "threshold must be"), ({"threshold": math.inf}, "threshold must be"),
     ({"most": -1}, "most must be 0 or more")],
)  # fmt: skip
def test_rules_that_make_no_sense(values, message):
    with pytest.raises(ValueError, match=message):
        BadStepRule(**values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"train__on_bad_step": "ignore"}, r"train\.on_bad_step: .*'stop', 'skip' or 'rollback', got \"ignore\""),
     ({"train__bad_steps__window": 2}, r"train\.bad_steps: window must be at least 3 losses, got 2"),
     ({"train__bad_steps__threshold": -1.0}, r"train\.bad_steps: threshold must be a positive number or null"),
     ({"train__bad_steps__threshold": math.inf}, r"train\.bad_steps\.threshold: .* finite number"),
     ({"train__bad_steps__most": 1.5}, r"train\.bad_steps\.most: must be an integer"),
     ({"train__bad_steps__windw": 5}, r"train\.bad_steps\.windw'; did you mean train\.bad_steps\.window")],
)  # fmt: skip
def test_recipes_whose_bad_steps_make_no_sense(recipe, changes, message):
    with pytest.raises(ValueError, match=message):
        loading.parse_recipe(recipe(**changes))
