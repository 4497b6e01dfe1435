"""The lists of planted mistakes: each mistake fits the definition that it names, and its tests exist."""

import pytest

from tools.mutants.check import Found, by_names, wrong_places
from tools.mutants.lists import all_mutants, chosen
from tools.mutants.mutant import Mutant
from tools.mutants.plant import COPIED, plant_each

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
    """Only the named method changes, although another one has the same code."""
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


def test_a_mistake_is_killed_by_a_test_that_fails_and_by_no_other_end(tmp_path, monkeypatch):
    for name in COPIED:
        (tmp_path / name).mkdir()
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "raysde/__init__.py").write_text("")
    (tmp_path / "raysde/half.py").write_text("def half(x):\n    return x / 2\n")
    (tmp_path / "tests/test_half.py").write_text(
        "from raysde.half import half\n\ndef test_half():\n    assert half(4) == 2\n"
    )
    monkeypatch.setattr("tools.mutants.mutant.ROOT", tmp_path)
    monkeypatch.setattr("tools.mutants.plant.ROOT", tmp_path)
    monkeypatch.setattr("tools.mutants.plant.LIBRARIES", ())

    def mistake(new: str, options: str = "") -> Mutant:
        return Mutant(new, "raysde.half:half", "return x / 2", new, f"tests/test_half.py {options}")

    found = {
        mutant.what: (dead, line)
        for mutant, dead, line in plant_each(
            [
                mistake("return x / 3"),
                mistake("return x * 0.5"),
                mistake("return ("),  # the module cannot be imported: no test has failed
                mistake("return 0", "-k no_such_test"),
                Mutant("gone", "raysde.half:third", "x", "y", "tests/test_half.py"),
            ],
            jobs=2,
        )
    }
    assert [what for what, (dead, _) in found.items() if dead] == ["return x / 3"]
    assert found["return x / 3"][1].startswith("FAILED tests/test_half.py::test_half")
    assert "does not exist" in found["gone"][1]
    assert len(found) == 5
