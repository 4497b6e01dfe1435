"""The model of a report, and the models that its metrics are refused to."""

import pytest

from raysde.evaluation.report import Subject

OWN = {"solver": "unipc", "steps": 4}
SUBJECT = Subject("models:/digits/1", weights="ab" * 32, generation=OWN)


def test_figures_are_of_the_weights_and_of_the_settings_that_they_draw_by():
    SUBJECT.check("ab" * 32, dict(OWN), "version 2")
    for weights, generation in (("ab" * 32, {}), ("ab" * 32, {**OWN, "steps": 8}), ("cd" * 32, OWN), (None, OWN)):
        with pytest.raises(ValueError, match="not of version 2"):
            SUBJECT.check(weights, generation, "version 2")
    with pytest.raises(ValueError, match="weights unknown"):
        Subject("elsewhere").check(None, {}, "version 2")
