"""Filters of rows by kept columns: ``aesthetic > 5 and width >= 256 and language == 'en'``.

A filter is parsed as a Python expression and never evaluated as one. It may hold

- comparisons ``== != < <= > >=`` of a column with a constant or with another column, also chained (``0 < a <= 1``);
- ``in`` and ``not in`` with a list of constants, and ``is None`` and ``is not None`` for missing values;
- a column of truth values alone; and ``and``, ``or``, ``not`` and parentheses.

Missing values follow SQL: a comparison with one is neither true nor false, and neither is its negation. A row is
selected if the filter is true. So ``not (score > 5)`` leaves out rows without a score, and so does ``score != 5``.
"""

import ast
import re
from collections.abc import Mapping

from raysde.data.dataset.filter_terms import (
    Combined,
    Compared,
    Comparison,
    Constant,
    Filter,
    Member,
    Missing,
    Related,
)
from raysde.io.near import did_you_mean

LONGEST = 100_000
EXAMPLE = "; write comparisons, such as score > 5 and width >= 256"
"""Largest number of characters of a filter."""
SYMBOLS: dict[type[ast.cmpop], str] = {
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=",
}  # fmt: skip
MIRRORED = {"==": "==", "!=": "!=", "<": ">", ">": "<", "<=": ">=", ">=": "<="}
WORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None, "none": None}
"""Constants in the spelling of YAML and JSON."""


def parse_filter(text: str) -> Filter:
    """Return the filter of a text.

    Raises:
        ValueError: naming the part of the text that is no filter.
    """
    return _parse(_read(text))


def normalise_filter(text: str) -> str:
    """Return a filter's text in one spelling of spaces, quotes and parentheses.

    Raises:
        ValueError: as :func:`parse_filter`.
    """
    parse_filter(text)
    return ast.unparse(_read(text))


def check_filter(condition: Filter, types: Mapping[str, str]) -> None:
    """Check that a filter's columns exist and are compared with constants of their type.

    Args:
        types: type of each kept column, see :data:`raysde.data.dataset.kept_columns.TYPES`.

    Raises:
        ValueError: naming the column that does not exist, with similar names, or the wrong comparison.
    """
    for leaf in condition.leaves():
        for name in _names(leaf):
            if name not in types:
                raise ValueError(f"there is no column {name}{did_you_mean(name, types) or ';'} "
                                 f"the columns are {', '.join(types)}")  # fmt: skip
        leaf.check(types)


def columns_of(condition: Filter) -> list[str]:
    """Return the names of the columns of a filter, sorted."""
    return sorted({name for leaf in condition.leaves() for name in _names(leaf)})


def _names(leaf: Comparison) -> tuple[str, ...]:
    return (leaf.column, leaf.other) if isinstance(leaf, Related) else (leaf.column,)


def _read(text: str) -> ast.expr:
    if not text.strip() or len(text) > LONGEST:
        raise ValueError("the filter is empty or too long; leave the key out for all rows")
    try:
        return ast.parse(" ".join(text.split("\n")).strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        hint = "; write == to compare" if re.search(r"[^=!<>]=[^=]", text) else ""
        raise ValueError(f"{text[:80]!r} is no filter: {getattr(error, 'msg', error)}{hint or EXAMPLE}") from None


def _parse(node: ast.expr) -> Filter:
    match node:
        case ast.BoolOp(op, values):
            return Combined(tuple(_parse(value) for value in values), isinstance(op, ast.Or))
        case ast.UnaryOp(ast.Not(), operand):
            return _parse(operand).negated()
        case ast.Compare(left, ops, others):
            sides = [left, *others]
            parts = [_compare(sides[place], symbol, sides[place + 1]) for place, symbol in enumerate(ops)]
            return parts[0] if len(parts) == 1 else Combined(tuple(parts), any_of=False)
        case ast.Name(name) if name.casefold() not in WORDS:
            return Compared(name, "==", True)
    raise _refuse(node)


def _compare(left: ast.expr, symbol: ast.cmpop, right: ast.expr) -> Filter:
    name, other = _column(left), _column(right)
    if isinstance(symbol, ast.In | ast.NotIn):
        if name is None or not isinstance(right, ast.List | ast.Tuple | ast.Set) or not right.elts:
            raise ValueError(f"{ast.unparse(right)[:80]!r} is no list; write a column in ['one', 'another']")
        return Member(name, tuple(_constant(each) for each in right.elts), isinstance(symbol, ast.In))
    if isinstance(symbol, ast.Is | ast.IsNot):
        if name is None or not _is_missing(right):
            raise ValueError("is and is not compare a column with None alone; use == and !=")
        return Missing(name, isinstance(symbol, ast.Is))
    if name is not None and _is_missing(right):
        raise ValueError(f"{name} {SYMBOLS[type(symbol)]} None is never true; write {name} is None, or is not None")
    if name is not None and other is not None:
        return Related(name, SYMBOLS[type(symbol)], other)
    if name is not None:
        return Compared(name, SYMBOLS[type(symbol)], _constant(right))
    if other is not None:
        return Compared(other, MIRRORED[SYMBOLS[type(symbol)]], _constant(left))
    raise ValueError(f"{ast.unparse(left)[:40]} {SYMBOLS[type(symbol)]} {ast.unparse(right)[:40]} names no column")


def _column(node: ast.expr) -> str | None:
    """Return the name of a column; None for other nodes."""
    return node.id if isinstance(node, ast.Name) and node.id.casefold() not in WORDS else None


def _is_missing(node: ast.expr) -> bool:
    known = isinstance(node, ast.Name) and WORDS.get(node.id.casefold(), False) is None
    return known or (isinstance(node, ast.Constant) and node.value is None)


def _constant(node: ast.expr) -> Constant:
    match node:
        case ast.Constant(value) if isinstance(value, bool | int | float | str):
            return value
        case ast.Name(name) if WORDS.get(name.casefold()) is not None:
            return bool(WORDS[name.casefold()])
        case ast.UnaryOp(ast.USub(), ast.Constant(value)) if isinstance(value, int | float) and not isinstance(
            value, bool
        ):
            return -value
    raise _refuse(node)


def _refuse(node: ast.expr) -> ValueError:
    symbol = getattr(node, "op", None)
    hint = "and" if isinstance(symbol, ast.BitAnd) else "or" if isinstance(symbol, ast.BitOr) else None
    remedy = f"write {hint!r}" if hint else "use comparisons of columns with constants, and, or, not, in, is None"
    return ValueError(f"{ast.unparse(node)[:80]!r} has no place in a filter; {remedy}")
