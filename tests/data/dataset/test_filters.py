"""Filters of rows: SQLite selects the same rows, and statistics exclude no row that is selected."""

import random
import sqlite3

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pytest

from raysde.data.dataset.filter_terms import Bounds
from raysde.data.dataset.filters import check_filter, columns_of, normalise_filter, parse_filter

TYPES = {"score": "double", "width": "int64", "language": "string", "safe": "bool"}
ROWS = [
    {"score": score, "width": width, "language": language, "safe": safe}
    for score in (None, -1.0, 0.0, 4.5, 5.0, 9.25)
    for width in (None, 1, 5, 256)
    for language in (None, "de", "en", "it's")
    for safe in (None, True, False)
]
TABLE = pa.Table.from_pylist(ROWS, schema=pa.schema([("score", pa.float64()), ("width", pa.int64()),
                                                     ("language", pa.string()), ("safe", pa.bool_())]))  # fmt: skip
CONSTANTS = {"score": ["-1.0", "4.5", "5", "7"], "width": ["1", "5.5", "256"], "language": ["'de'", "'en'", '"it\'s"']}


def selected(text: str) -> list[int]:
    condition = parse_filter(text)
    check_filter(condition, TYPES)
    found = pads.dataset(TABLE).to_table(columns={"found": condition.expression()}).column("found")
    return np.flatnonzero(found.fill_null(False).to_numpy()).tolist()


def random_filter(draw: random.Random, depth: int) -> tuple[str, str]:
    """Return a random filter, and the same condition in SQL."""
    if depth and draw.random() < 0.7:
        word = draw.choice(["and", "or", "not"])
        one, other = (random_filter(draw, depth - 1) for _ in range(2))
        if word == "not":
            return f"not ({one[0]})", f"not ({one[1]})"
        return f"({one[0]}) {word} ({other[0]})", f"({one[1]}) {word} ({other[1]})"
    column = draw.choice([*CONSTANTS, "safe"])
    if column == "safe":
        return draw.choice([("safe", "safe = 1"), ("safe != True", "safe <> 1"), ("safe is None", "safe is null")])
    kind, symbol = draw.random(), draw.choice(["==", "!=", "<", "<=", ">", ">="])
    if kind < 0.15:
        return draw.choice(
            [(f"{column} is None", f"{column} is null"), (f"{column} is not None", f"{column} not null")]
        )
    constant = draw.choice(CONSTANTS[column])
    sql = {"==": "=", "!=": "<>"}.get(symbol, symbol)
    if kind < 0.25 and column != "language":
        return f"score {symbol} width", f"score {sql} width"
    if kind < 0.45:
        values, word = draw.sample(CONSTANTS[column], 2), draw.choice(["in", "not in"])
        return f"{column} {word} [{', '.join(values)}]", f"{column} {word} ({', '.join(map(in_sql, values))})"
    if kind < 0.6:
        return f"{constant} {symbol} {column}", f"{in_sql(constant)} {sql} {column}"
    return f"{column} {symbol} {constant}", f"{column} {sql} {in_sql(constant)}"


def in_sql(constant: str) -> str:
    return "'it''s'" if constant[0] == '"' else constant


@pytest.fixture(scope="module")
def database():
    """The rows in SQLite, which has SQL's three truth values."""
    with sqlite3.connect(":memory:") as opened:
        opened.execute("create table rows (number integer, score real, width integer, language text, safe integer)")
        opened.executemany(
            "insert into rows values (?, ?, ?, ?, ?)", [(n, *row.values()) for n, row in enumerate(ROWS)]
        )
        yield opened


@pytest.mark.parametrize("seed", range(200))
def test_sqlite_selects_the_same_rows(database, seed):
    """Also with missing values, under any nesting of and, or and not."""
    text, sql = random_filter(random.Random(seed), 3)
    wanted = [row[0] for row in database.execute(f"select number from rows where {sql} order by number")]
    assert selected(text) == wanted
    assert selected(normalise_filter(text)) == wanted


@pytest.mark.parametrize("seed", range(100))
def test_statistics_exclude_no_selected_row(seed):
    """A row group is passed over only if it has no selected row, and single values are judged exactly."""
    draw = random.Random(seed)
    text, _ = random_filter(draw, 2)
    found = set(selected(text))
    for _ in range(20):
        group = draw.sample(range(len(ROWS)), draw.choice([1, 2, 5, 20]))
        if not parse_filter(text).may_select(bounds_of(group)):
            assert not found & set(group)


def bounds_of(group: list[int]) -> dict[str, Bounds]:
    bounds = {}
    for name in TYPES:
        values = [ROWS[row][name] for row in group]
        known = [value for value in values if value is not None]
        low, high = (min(known), max(known)) if known else (None, None)
        bounds[name] = Bounds(low, high, len(values) - len(known), len(values))
    return bounds


@pytest.mark.parametrize(
    ("text", "low", "high", "possible"),
    [
        ("score > 5", 1.0, 5.0, False), ("score > 5", 1.0, 5.5, True), ("score >= 5", 1.0, 5.0, True),
        ("score < 1", 1.0, 5.0, False), ("score <= 1", 1.0, 5.0, True), ("score == 6", 1.0, 5.0, False),
        ("score != 3", 3.0, 3.0, False), ("score in [0, 6]", 1.0, 5.0, False), ("score not in [3, 4]", 3.0, 3.0, False),
        ("score is None", 1.0, 5.0, False), ("not score <= 5", 1.0, 5.0, False), ("0 < score < 1", 1.0, 5.0, False),
        ("score > 5 or score < 1", 1.0, 5.0, False), ("not (score <= 5 or score >= 9)", 1.0, 5.0, False),
    ],
)  # fmt: skip
def test_statistics_exclude_what_they_can(text, low, high, possible):
    assert parse_filter(text).may_select({"score": Bounds(low, high, 0, 9)}) is possible
    assert parse_filter(text).may_select({}) is True
    if "None" not in text:
        assert parse_filter(text).may_select({"score": Bounds(None, None, 9, 9)}) is False


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("scor > 5", r"there is no column scor; did you mean score\? the columns are score, width"),
        ("score > 'high'", "column score holds numbers, and 'high' is of text; compare it with numbers"),
        ("language > 3", "column language holds text, and 3 is of numbers"),
        ("score == True", "column score holds numbers, and True is of truth values"),
        ("language in ['en', 3]", "column language holds text, and 3 is of numbers"),
        ("safe < True", "column safe holds truth values, which have no order"),
        ("score < language", "column score holds numbers and language holds text"),
        ("score", "column score holds numbers, and True is of truth values"),
        ("score = 5", r"'score = 5' is no filter: invalid syntax; write == to compare"),
        ("score > 5 and", "is no filter"),
        ("score > 5 & width > 3", "has no place in a filter|names no column"),
        ("(score > 5) & (width > 3)", "has no place in a filter; write 'and'"),
        ("__import__('os').system('true')", "has no place in a filter"),
        ("score.real > 5", "names no column"),
        ("score + 1 > 5", "names no column"),
        ("5 > 3", "5 > 3 names no column"),
        ("score == None", "score == None is never true; write score is None"),
        ("score is 5", "is and is not compare a column with None alone"),
        ("language in 'en'", "''en'' is no list|is no list"),
        ("score in []", "is no list"),
        (" ", "the filter is empty"),
        ("not " * 5000 + "safe", "is no filter"),
    ],
)  # fmt: skip
def test_a_wrong_filter_is_a_sentence(text, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_filter(parse_filter(text), TYPES)


def test_many_values_and_conditions():
    """Long lists and long chains are no problem of depth."""
    assert selected(" or ".join(f"width == {number}" for number in range(500))) == selected("width in [1, 5, 256]")
    assert selected(f"width in {list(range(257))}") == selected("width is not None")
    assert selected("width < 99999999999999999999") == selected("width is not None")
    assert columns_of(parse_filter("score > width or language == 'en'")) == ["language", "score", "width"]
