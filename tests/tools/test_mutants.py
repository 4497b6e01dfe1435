"""The lists of planted mistakes: each is found in the definition that it names, and its tests exist."""

import pytest

from tools.mutants.check import Found, by_names, wrong_places
from tools.mutants.lists import all_mutants, chosen
from tools.mutants.mutant import Mutant

SOURCE = """\
LIMIT = 3


class First:
    @property
    def size(self):
        return LIMIT


class Second:
    def size(self):
        return LIMIT
"""


def mutant(name: str, old: str = "return LIMIT", tests: str = "tests/sde -k 'a or b'") -> Mutant:
    return Mutant("a limit more", f"raysde.module{name}", old, "return LIMIT + 1", tests)


def test_every_mistake_can_be_planted_and_names_tests_that_exist():
    assert wrong_places(all_mutants()) == []


def test_a_mistake_is_planted_in_its_own_definition_alone():
    """Code that another method has too is changed in the method named."""
    planted = mutant(":Second.size").planted(SOURCE)
    assert planted == SOURCE[:-1] + " + 1\n"
    assert mutant(":First.size").planted(SOURCE).count("LIMIT + 1\n\n\nclass Second") == 1
    assert mutant(":LIMIT", "LIMIT = 3").planted(SOURCE).startswith("return LIMIT + 1\n\n")


@pytest.mark.parametrize(
    ("name", "old", "culprit"),
    [
        (":Third.size", "return LIMIT", "raysde.module:Third.size does not exist"),
        (":size", "return LIMIT", "raysde.module:size does not exist"),
        ("", "return LIMIT", "2 times"),
        (":First", "return LIMITS", "0 times"),
    ],
)
def test_what_is_out_of_date_is_named(name, old, culprit):
    with pytest.raises(ValueError, match=culprit):
        mutant(name, old).planted(SOURCE)


@pytest.mark.parametrize(
    ("tests", "expected"),
    [
        ("tests/sde", True),
        ("tests/sde/test_vp.py tests/io", True),
        ("tests/sd tests/io", False),
        ("tests/sde -k 'limit or more'", True),
        ("tests/sde -k more", False),
        ("tests/sde -m slow", False),
        ("tests/sde -m cheap -k limit", True),
    ],
)
def test_tests_are_selected_by_file_name_and_marker(tests, expected):
    found = Found("tests/sde/test_vp.py", ["sde", "test_vp.py", "test_a_limit"], {"cheap"})
    assert found.selected(mutant("", tests=tests)) is expected


def test_slow_tests_are_selected_by_their_marker_alone():
    found = Found("tests/sde/test_vp.py", ["test_a_limit"], {"slow"})
    assert not found.selected(mutant("", tests="tests/sde"))
    assert found.selected(mutant("", tests="tests/sde -m slow"))


@pytest.mark.parametrize(
    ("expression", "expected"),
    [("limit", True), ("LIMIT and not more", False), ("(other or size) and limit", True), ("other", False)],
)
def test_expressions_select_by_parts_of_names(expression, expected):
    assert by_names(expression, ["test_sizes.py", "test_a_limit_is_kept[more]"]) is expected


def test_mistakes_are_chosen_by_name_module_and_package():
    assert {mutant.where.split(":")[0] for mutant in chosen("raysde.sde.flow")} == {"raysde.sde.flow"}
    assert {mutant.where.split(".")[1] for mutant in chosen("raysde.tuning")} == {"tuning"}
    assert [mutant.what for mutant in chosen("flow reversed")] == ["flow reversed"]
    with pytest.raises(ValueError, match="--only nothing of the kind"):
        chosen("nothing of the kind")
