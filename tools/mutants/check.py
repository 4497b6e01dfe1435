"""Check that the mistakes can be planted and that their tests exist, without running any test."""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import pytest

from tools.mutants.mutant import ROOT, Mutant

USUAL = "not gpu and not slow and not readme"
"""Value of pytest's ``-m`` in pyproject.toml, for mistakes without their own."""


def wrong_places(mutants: Iterable[Mutant]) -> list[str]:
    """Return a message for each mistake with wrong code or missing test files, and for each name used twice."""
    wrong: list[str] = []
    names: set[str] = set()
    for mutant in mutants:
        if mutant.what in names:
            wrong.append(f"{mutant.what}: two mistakes have this name; rename one of them")
        names.add(mutant.what)
        wrong += [f"{mutant.what}: {file} does not exist" for file in mutant.files if not (ROOT / file).exists()]
        if not (ROOT / mutant.path).exists():
            wrong.append(f"{mutant.what}: {mutant.path} does not exist")
            continue
        try:
            mutant.planted((ROOT / mutant.path).read_text())
        except ValueError as error:
            wrong.append(str(error))
    return wrong


@dataclass(frozen=True)
class Found:
    """A test that pytest collected: its file, the names that ``-k`` matches, and its markers."""

    file: str
    names: Sequence[str]
    marks: Collection[str]

    def selected(self, mutant: Mutant) -> bool:
        """Return True if the arguments of a mistake select this test."""
        if not any(self.file == place or self.file.startswith(f"{place}/") for place in mutant.files):
            return False
        named = mutant.expression is None or by_names(mutant.expression, self.names)
        return named and holds(mutant.marks or USUAL, self.marks.__contains__)


class Collected:
    """A pytest plugin that keeps the collected tests."""

    def __init__(self) -> None:
        self.tests: list[Found] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Keep file, names and markers of each test."""
        for item in session.items:
            names = [node.name for node in item.listchain()[2:]]  # neither the session nor the project
            marks = {mark.name for mark in item.iter_markers()}
            self.tests.append(Found(str(item.path.relative_to(ROOT)), names, marks))


def without_tests(mutants: Sequence[Mutant]) -> list[str]:
    """Return a message for each mistake whose files, ``-k`` and ``-m`` select no test; pytest collects once."""
    files = sorted({file for mutant in mutants for file in mutant.files if (ROOT / file).exists()})
    collected = Collected()
    options = ["--collect-only", "-qq", "--no-summary", "-p", "no:cacheprovider", "-m", ""]
    status = pytest.main([*options, *(str(ROOT / file) for file in files)], [collected])
    if status != pytest.ExitCode.OK:
        return [f"pytest could not collect the tests: {pytest.ExitCode(status).name}"]
    return [
        f"{mutant.what}: {mutant.tests} selects no test"
        for mutant in mutants
        if not any(found.selected(mutant) for found in collected.tests)
    ]


def by_names(expression: str, names: Iterable[str]) -> bool:
    """Return True if an expression of ``-k`` selects a test with these names: its words match parts of them."""
    joined = "\n".join(names).lower()
    return holds(expression, lambda word: word.lower() in joined)


def holds(expression: str, known: Callable[[str], bool]) -> bool:
    """Return the value of an expression of words with ``and``, ``or``, ``not`` and brackets, as pytest reads it."""
    words = ("and", "or", "not")
    values = re.sub(r"\w+", lambda found: found[0] if found[0] in words else str(known(found[0])), expression)
    return bool(eval(values))
