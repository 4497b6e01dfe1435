"""The lint rule for docstrings: refused openings are found in every kind of docstring, and nowhere else."""

import pytest

from tools.docstrings import find_openings, main

REFUSED = ["Who", "Whose", "Whom", "What", "Whether", "Those", "That", "Of", "Which", "Where", "How"]
PLACES = '''"""{0} a module."""


class Thing:
    """
    {0} a class.
    """

    size: int
    """{0} a field."""

    async def method(self):
        """{0} a method."""

        def inner():
            r"""{0} an inner function."""

LIMIT = 3
"""{0} an assignment."""
'''


@pytest.mark.parametrize("word", REFUSED)
def test_each_word_is_found_in_every_kind_of_docstring(word):
    assert find_openings(PLACES.format(word)) == [(line, word) for line in (1, 5, 10, 13, 16, 19)]


@pytest.mark.parametrize("opening", ["Whatever", "Return", "Offer", "Thatch", "what", "A", "Somewhere", "However,"])
def test_other_openings_pass(opening):
    assert find_openings(PLACES.format(opening)) == []


def test_strings_and_comments_that_are_no_docstrings_pass():
    source = (
        'MEANING = "What a value means"\n# Whether a comment\nprint("How many")\n\n\ndef f(x="Of"):\n    return "Who"\n'
    )
    assert find_openings(source) == []


def test_command_prints_places_and_fails(tmp_path, capsys):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "bad.py").write_text('def f():\n    """Those of f."""\n')
    (tmp_path / "good.py").write_text('"""A module."""\n')
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.startswith(f'{tmp_path}/inner/bad.py:2: docstring begins with "Those"')


def test_command_reads_every_folder_that_it_is_given(tmp_path, capsys):
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "bad.py").write_text('"""Of a module."""\n')
    assert main([str(tmp_path / name) for name in ("one", "two", "three")]) == 1
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_command_is_silent_and_succeeds_on_clean_folders(tmp_path, capsys):
    (tmp_path / "good.py").write_text('"""A module."""\n')
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == ""
