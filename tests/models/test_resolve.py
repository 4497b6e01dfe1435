"""The order of sampling settings: given ones, then the model's own, then the package's defaults."""

import math
from itertools import product

import pytest

from raysde.models.sampling_defaults import GUIDED, resolve_settings

OWN = {"solver": "edm", "steps": 3, "churn": 20.0, "guidance": 3.0, "guidance_interval": (0.5, 30.0)}
AWAY = {"negative": "a six"}
GUIDE = {"autoguide": "a younger model"}
APART = {**GUIDE, "autoguidance": 1.5}
PYTHON, COMMANDS = 1.0, GUIDED


def guidance(own, given, conditional, scale):
    return resolve_settings(own, given, conditional, usual="heun", scale=scale)["guidance"]


# own guidance, negative or guide, prompts or labels, then the scale in Python and for commands
TABLE = [
    (None, {}, False, 1.0, 1.0),
    (None, {}, True, 1.0, 2.0),
    (None, AWAY, False, 2.0, 2.0),
    (None, AWAY, True, 2.0, 2.0),
    (None, GUIDE, False, 2.0, 2.0),
    (None, GUIDE, True, 2.0, 2.0),
    (None, APART, False, 1.0, 1.0),
    (None, APART, True, 1.0, 2.0),
    (None, {**APART, **AWAY}, False, 2.0, 2.0),
    (3.0, {}, False, 1.0, 1.0),
    (3.0, {}, True, 3.0, 3.0),
    (3.0, AWAY, False, 3.0, 3.0),
    (3.0, AWAY, True, 3.0, 3.0),
    (3.0, GUIDE, False, 3.0, 3.0),
    (3.0, APART, False, 3.0, 3.0),
    (3.0, APART, True, 3.0, 3.0),
]


@pytest.mark.parametrize(("own", "given", "conditional", "python", "commands"), TABLE)
def test_the_guidance_of_each_case(own, given, conditional, python, commands):
    kept = {} if own is None else {"guidance": own}
    assert guidance(kept, given, conditional, PYTHON) == python
    assert guidance(kept, given, conditional, COMMANDS) == commands
    # None counts as not given, and a given number always wins
    assert guidance(kept, {**given, "guidance": None}, conditional, COMMANDS) == commands
    for scale in (PYTHON, COMMANDS):
        assert guidance(kept, {**given, "guidance": 1.25}, conditional, scale) == 1.25


@pytest.mark.parametrize("scale", [PYTHON, COMMANDS])
def test_an_interval_needs_a_guidance(scale):
    interval = {"guidance_interval": (0.2, 5.0)}
    with pytest.raises(
        ValueError, match="guidance_interval has no effect at guidance 1: set a larger scale, such as guidance=2"
    ):
        resolve_settings({}, interval, False, usual="heun", scale=scale)
    if scale == PYTHON:
        with pytest.raises(ValueError, match="guidance_interval has no effect"):
            resolve_settings({}, interval, True, usual="heun")
    for beside in (AWAY, GUIDE, APART, {"guidance": 1.0}):
        assert resolve_settings({}, interval | beside, False, usual="heun")["guidance_interval"] == (0.2, 5.0)


@pytest.mark.parametrize(
    ("own", "given", "conditional", "wanted"),
    [
        ({}, {}, True, {"solver": "heun", "steps": 20}),
        (OWN, {}, True, OWN),
        (OWN, {}, False, {"solver": "edm", "steps": 3, "churn": 20.0, "guidance": 1.0}),
        (OWN, AWAY, False, {**OWN, **AWAY}),
        (OWN, {"steps": 5}, True, {**OWN, "steps": 5}),
        (OWN, {"guidance_interval": None}, True, OWN),
        (OWN, {"guidance_interval": (0.0, math.inf)}, True, {**OWN, "guidance_interval": (0.0, math.inf)}),
        # another solver has its own settings and the model's guidance
        (OWN, {"solver": "ddim"}, True, {"solver": "ddim", "steps": 20, **{name: OWN[name] for name in ("guidance", "guidance_interval")}}),
        ({"guidance": 3.0}, {"solver": "ddim"}, True, {"solver": "ddim", "steps": 20, "guidance": 3.0}),
        # the model's own settings without effect are no error of the caller
        ({"solver": "euler", "corrector": "langevin", "target_snr": 0.05}, {"corrector": "none"}, False, {"solver": "euler", "steps": 20, "corrector": "none"}),
        ({}, {"batch_size": 9, "prompts": ["a"]}, True, {"solver": "heun", "steps": 20, "batch_size": 9, "prompts": ["a"]}),
    ],
)  # fmt: skip
def test_what_is_given_wins_over_the_models_own(own, given, conditional, wanted):
    found = resolve_settings(own, given, conditional, usual="heun")
    assert found == {"guidance": 1.0, **wanted}


@pytest.mark.parametrize(
    ("usual", "given", "resample", "solver"),
    [
        ("unipc", {}, 0, "unipc"),
        ("heun", {}, 0, "heun"),
        ("unipc", {"corrector": "langevin"}, 0, "heun"),
        ("unipc", {"corrector": "none"}, 0, "unipc"),
        ("unipc", {}, 1, "heun"),
        ("ddim", {"corrector": "langevin"}, 1, "ddim"),
        ("unipc", {"solver": "euler"}, 1, "euler"),
    ],
)
def test_the_solver_of_each_case(usual, given, resample, solver):
    assert resolve_settings({}, given, False, usual=usual, resample=resample)["solver"] == solver


def test_what_is_resolved_stays_so():
    """Resolving is idempotent: commands resolve settings to print them, and the model resolves them again."""
    cases = product(
        [{}, OWN, {"guidance": 3.0}], [{}, {"solver": "ddim"}, {"steps": 9}], [{}, AWAY, APART], [True, False]
    )
    for own, given, away, conditional in cases:
        once = resolve_settings(own, given | away, conditional, usual="unipc", scale=COMMANDS)
        for scale in (PYTHON, COMMANDS):
            assert resolve_settings(own, once, conditional, usual="unipc", scale=scale) == once
