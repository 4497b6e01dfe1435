"""The comparisons of a filter and their combinations, as expressions of Arrow and as tests of a row group's statistics.

The grammar and the treatment of missing values are those of :mod:`raysde.data.dataset.filters`.
"""

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.dataset as pads

Constant = bool | int | float | str
COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
NEGATED = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
KINDS = {"bool": "truth values", "int64": "numbers", "double": "numbers", "string": "text"}


@dataclass(frozen=True)
class Bounds:
    """Statistics of a column in some rows.

    Attributes:
        low, high: least and largest value; None if all are missing or it is unknown.
        missing: number of missing values.
        rows: number of rows.
    """

    low: Any
    high: Any
    missing: int
    rows: int


class Filter(Protocol):
    """A condition on the kept columns of a row. Negations are applied to the comparisons, so that none is left."""

    def negated(self) -> "Filter":
        """Return the condition that is true where this one is false; neither is true for missing values."""

    def leaves(self) -> Iterator["Comparison"]:
        """Yield the comparisons."""

    def expression(self) -> pads.Expression:
        """Return the condition as an expression of Arrow; a row is selected if it is true."""

    def may_select(self, bounds: Mapping[str, Bounds]) -> bool:
        """Return False if the statistics of some rows prove that none of them is selected."""


class Comparison(Filter, Protocol):
    """A condition without parts, of one column."""

    @property
    def column(self) -> str:
        """Name of the column."""

    def check(self, types: Mapping[str, str]) -> None:
        """Check the types of columns and constants.

        Raises:
            ValueError: naming the column, if they do not fit.
        """


@dataclass(frozen=True)
class Compared:
    """``column symbol value``."""

    column: str
    symbol: str
    value: Constant

    def negated(self) -> "Compared":
        return replace(self, symbol=NEGATED[self.symbol])

    def leaves(self) -> Iterator[Comparison]:
        yield self

    def expression(self) -> pads.Expression:
        found: pads.Expression = COMPARE[self.symbol](pads.field(self.column), pa.scalar(_fit_integer(self.value)))
        return found

    def may_select(self, bounds: Mapping[str, Bounds]) -> bool:
        known = bounds.get(self.column)
        if known is None or known.missing == known.rows or known.low is None:
            return known is None or known.missing < known.rows
        if self.symbol == "==":
            return bool(known.low <= self.value <= known.high)
        if self.symbol == "!=":
            return not known.low == known.high == self.value
        return bool(COMPARE[self.symbol](known.low if self.symbol[0] == "<" else known.high, self.value))

    def check(self, types: Mapping[str, str]) -> None:
        _check_constant(self.column, types, self.value)
        if types[self.column] == "bool" and self.symbol not in ("==", "!="):
            raise ValueError(f"column {self.column} holds truth values, which have no order; use == or the name alone")


@dataclass(frozen=True)
class Related:
    """A comparison of two columns of a row: ``column symbol other``."""

    column: str
    symbol: str
    other: str

    def negated(self) -> "Related":
        return replace(self, symbol=NEGATED[self.symbol])

    def leaves(self) -> Iterator[Comparison]:
        yield self

    def expression(self) -> pads.Expression:
        found: pads.Expression = COMPARE[self.symbol](pads.field(self.column), pads.field(self.other))
        return found

    def may_select(self, bounds: Mapping[str, Bounds]) -> bool:
        known = [bounds[name] for name in (self.column, self.other) if name in bounds]
        return all(each.missing < each.rows for each in known)

    def check(self, types: Mapping[str, str]) -> None:
        first, second = KINDS[types[self.column]], KINDS[types[self.other]]
        if first != second or (first == "truth values" and self.symbol not in ("==", "!=")):
            raise ValueError(f"column {self.column} holds {first} and {self.other} holds {second}, which {self.symbol} "
                             "does not compare")  # fmt: skip


@dataclass(frozen=True)
class Member:
    """``column in values``, or not in them."""

    column: str
    values: tuple[Constant, ...]
    inside: bool = True

    def negated(self) -> "Member":
        return replace(self, inside=not self.inside)

    def leaves(self) -> Iterator[Comparison]:
        yield self

    def expression(self) -> pads.Expression:
        values = [_fit_integer(value) for value in self.values]
        if any(isinstance(value, float) for value in values):
            values = [float(value) for value in values]
        found = pads.field(self.column).isin(pa.array(values))
        return found if self.inside else pads.field(self.column).is_valid() & ~found

    def may_select(self, bounds: Mapping[str, Bounds]) -> bool:
        known = bounds.get(self.column)
        if known is None or known.missing == known.rows or known.low is None:
            return known is None or known.missing < known.rows
        if self.inside:
            return any(known.low <= value <= known.high for value in self.values)
        return not (known.low == known.high and known.low in self.values)

    def check(self, types: Mapping[str, str]) -> None:
        for value in self.values:
            _check_constant(self.column, types, value)


@dataclass(frozen=True)
class Missing:
    """``column is None``, or is not."""

    column: str
    missing: bool = True

    def negated(self) -> "Missing":
        return replace(self, missing=not self.missing)

    def leaves(self) -> Iterator[Comparison]:
        yield self

    def expression(self) -> pads.Expression:
        return pads.field(self.column).is_null() if self.missing else pads.field(self.column).is_valid()

    def may_select(self, bounds: Mapping[str, Bounds]) -> bool:
        known = bounds.get(self.column)
        return known is None or (known.missing > 0 if self.missing else known.missing < known.rows)

    def check(self, types: Mapping[str, str]) -> None:
        """Accept every type."""


@dataclass(frozen=True)
class Combined:
    """Several conditions: all of them, or with ``any_of`` at least one."""

    parts: tuple[Filter, ...]
    any_of: bool

    def negated(self) -> "Combined":
        return Combined(tuple(part.negated() for part in self.parts), not self.any_of)

    def leaves(self) -> Iterator[Comparison]:
        for part in self.parts:
            yield from part.leaves()

    def expression(self) -> pads.Expression:
        parts = [part.expression() for part in self.parts]
        while len(parts) > 1:  # a balanced tree, since Arrow walks expressions recursively
            pairs = [parts[place : place + 2] for place in range(0, len(parts), 2)]
            parts = [pair[0] if len(pair) == 1 else self._join(*pair) for pair in pairs]
        return parts[0]

    def _join(self, first: pads.Expression, second: pads.Expression) -> pads.Expression:
        return first | second if self.any_of else first & second

    def may_select(self, bounds: Mapping[str, Bounds]) -> bool:
        found = (part.may_select(bounds) for part in self.parts)
        return any(found) if self.any_of else all(found)


def _check_constant(column: str, types: Mapping[str, str], value: Constant) -> None:
    kind = "truth values" if isinstance(value, bool) else "text" if isinstance(value, str) else "numbers"
    if KINDS[types[column]] != kind:
        raise ValueError(f"column {column} holds {KINDS[types[column]]}, and {value!r} is of {kind}; compare it with "
                         f"{KINDS[types[column]]}")  # fmt: skip


def _fit_integer(value: Constant) -> Constant:
    """Return a constant; integers beyond 64 bits as floats."""
    return float(value) if isinstance(value, int) and not -(2**63) <= value < 2**63 else value
