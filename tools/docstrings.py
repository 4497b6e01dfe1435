"""Lint rule: no docstring begins with a word such as What, Whether or Of, which leaves its sentence without a subject.

ruff's pydocstyle rules check the presence and form of docstrings, not such words (its D404 knows only "This").

    python -m tools.docstrings FOLDER ...    prints path:line for each one, and exits with status 1 if there are any
"""

import ast
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

WORDS = ("Who", "Whose", "Whom", "What", "Whether", "Those", "That", "Of", "Which", "Where", "How", "If")
OPENING = re.compile(rf"\s*({'|'.join(WORDS)})\b")


def list_docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each docstring: of modules, classes, functions and assignments.

    Raises:
        SyntaxError: if the source is not Python.
    """
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else []:
            match statement:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    yield statement.lineno, text


def find_openings(source: str) -> list[tuple[int, str]]:
    """Return the line and the first word of each docstring that begins with one of :data:`WORDS`, by line."""
    return sorted((line, found[1]) for line, text in list_docstrings(source) if (found := OPENING.match(text)))


def main(folders: Sequence[str]) -> int:
    """Print each finding below the folders as ``path:line: message``; return the exit status."""
    count = 0
    for path in sorted(path for folder in folders for path in Path(folder).rglob("*.py")):
        for line, word in find_openings(path.read_text()):
            print(f'{path}:{line}: docstring begins with "{word}"; begin with a verb (functions) or a noun')
            count += 1
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
