"""A planted mistake, and the definition that it changes."""

import argparse
import ast
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Mutant:
    """A mistake in one definition of raysde.

    Attributes:
        what: name of the mistake in a few words.
        where: ``module:name`` of the function, method, class or module constant that contains ``old``; only the module
            for other code.
        old: code that occurs once in that definition.
        new: code to write instead.
        tests: arguments of pytest that select the tests which should fail: files, ``-k`` and ``-m``.
    """

    what: str
    where: str
    old: str
    new: str
    tests: str

    @property
    def path(self) -> str:
        """Path of the module, relative to the project."""
        place = self.where.partition(":")[0].replace(".", "/")
        return f"{place}/__init__.py" if (ROOT / place).is_dir() else f"{place}.py"

    @property
    def files(self) -> list[str]:
        """Paths of the test files, relative to the project."""
        return self._arguments.files

    @property
    def expression(self) -> str | None:
        """Expression of ``-k``; None if it is not given."""
        return self._arguments.k

    @property
    def marks(self) -> str | None:
        """Expression of ``-m``; None if it is not given."""
        return self._arguments.m

    @cached_property
    def _arguments(self) -> argparse.Namespace:
        reader = argparse.ArgumentParser()
        reader.add_argument("files", nargs="+")
        reader.add_argument("-k")
        reader.add_argument("-m")
        return reader.parse_args(shlex.split(self.tests))

    def planted(self, text: str) -> str:
        """Return the source text of the module with the mistake.

        Raises:
            ValueError: if the definition does not exist, or does not contain ``old`` exactly once.
        """
        name = self.where.partition(":")[2]
        spans = spans_of(text, name) if name else [(0, len(text))]
        if not spans:
            raise ValueError(f"{self.what}: {self.where} does not exist; name the definition that holds the code now")
        found = sum(text[start:end].count(self.old) for start, end in spans)
        if found != 1:
            raise ValueError(
                f"{self.what}: {self.where} holds the code {found} times instead of once; bring it up to date"
            )
        (start, end) = next((start, end) for start, end in spans if self.old in text[start:end])
        return text[:start] + text[start:end].replace(self.old, self.new) + text[end:]


def spans_of(text: str, name: str) -> list[tuple[int, int]]:
    """Return the character ranges of the definitions with a qualified name; there are several for overloads."""
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    return [(starts[first - 1], starts[last]) for found, first, last in definitions(ast.parse(text)) if found == name]


def definitions(tree: ast.Module) -> Iterator[tuple[str, int, int]]:
    """Yield the qualified name and the first and last line of each function, class and module constant."""
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    yield target.id, node.lineno, node.end_lineno or node.lineno
    yield from _inside(tree, "")


def _inside(node: ast.AST, prefix: str) -> Iterator[tuple[str, int, int]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            first = min([child.lineno, *(decorator.lineno for decorator in child.decorator_list)])
            yield prefix + child.name, first, child.end_lineno or first
            yield from _inside(child, f"{prefix}{child.name}.")
        else:
            yield from _inside(child, prefix)
