"""The JSON forms of a metric, to the character, and how they are read again."""

import json

import pytest
import torch

from raysde.evaluation.metric import Metric, parse_metric
from raysde.evaluation.metrics.jackknife import Influence

INFLUENCE = Influence({"drawn": torch.zeros(3)}, {"drawn": 3})
MADE = Metric("kid", 0.5, 0.25, 1.0, 300, 7, "abc", method="subsets", reference=90, influence=INFLUENCE)


def test_a_report_and_a_tag_are_written_as_before():
    """The keys, their order and their names are as raysde 1d989cc wrote them."""
    assert json.dumps(MADE.entry()) == (
        '{"name": "kid", "value": 0.5, "low": 0.25, "high": 1.0, "samples": 300, "method": "subsets", "best": "lower", '
        '"reference": 90, "seed": 7, "network": "abc"}'
    )
    assert json.dumps(MADE.to_json()) == (
        '{"metric": "kid", "value": 0.5, "low": 0.25, "high": 1.0, "samples": 300, "seed": 7, "features": "abc", '
        '"data": null, "overrides": null}'
    )
    bare = Metric("accuracy", 1.0, 0.5, 1.0, 1, 0)
    assert (bare.entry()["network"], bare.entry()["best"], bare.to_json()["features"]) == ("", "higher", None)
    assert str(MADE) == "kid 0.5 [0.25, 1]"


def test_what_is_kept_is_read_again():
    again = parse_metric(json.loads(json.dumps(MADE.to_json())), "a tag")
    assert again == Metric("kid", 0.5, 0.25, 1.0, 300, 7, "abc")
    assert again.influence is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "kid"}, "a tag: name: Unexpected keyword argument"),
        ({"influence": None}, "a tag: influence: Unexpected keyword argument"),
        ({"value": 2.0}, r"a tag: kid 2.0 lies outside its interval \[0.25, 1.0\]"),
        ({"low": float("nan")}, "a tag: low: must be a finite number"),
        ({"samples": 0}, "a tag: kid was measured on 0 samples"),
        ({"metric": "a\nb"}, "a tag: metric .* must be of letters"),
        ({"seed": "x"}, "a tag: seed: "),
    ],
)
def test_what_is_no_metric_is_refused_by_its_field(change, said):
    with pytest.raises(ValueError, match=said):
        parse_metric({**MADE.to_json(), **change}, "a tag")


def test_a_metric_that_is_lacking_is_named():
    with pytest.raises(ValueError, match="a tag: metric: Field required"):
        parse_metric({key: value for key, value in MADE.to_json().items() if key != "metric"}, "a tag")
