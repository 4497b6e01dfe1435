"""Names of columns and keys, compared regardless of case, outer white space, and the separator between words."""

import re
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import Any


@lru_cache(maxsize=4096)
def normalise_name(name: str) -> str:
    """Return a name in normal form for comparison: ``file_name`` for ``File Name`` and `` FILE-NAME ``."""
    return re.sub(r"[\s\-]+", "_", name.strip()).casefold()


def find_spellings(names: Iterable[str], wanted: Collection[str]) -> dict[str, str]:
    """Return the names of ``wanted`` that occur in ``names``, in the order of ``wanted``, with their spelling there.

    Raises:
        ValueError: if a name occurs in two spellings, naming both.
    """
    found: dict[str, str] = {}
    for name in names:
        key = normalise_name(name)
        if key in wanted:
            if key in found:
                raise ValueError(f"columns {found[key]!r} and {name!r} have one name; rename or remove one of the two")
            found[key] = name
    return {key: found[key] for key in wanted if key in found}


def nonempty_values(row: Mapping[str, Any], wanted: Collection[str]) -> dict[str, Any]:
    """Return a row's values of the wanted names, by their spelling in the row, without empty ones.

    Raises:
        ValueError: if a name occurs in two spellings.
    """
    names = find_spellings(row, wanted).values()
    return {name: row[name] for name in names if row[name] not in (None, "", [])}


def summarise_columns(names: Iterable[str], limit: int = 12) -> str:
    """Return the first ``limit`` column names for a message, and the number of the others."""
    there = list(names)
    more = len(there) - limit
    return ", ".join(name or "''" for name in there[:limit]) + (f" and {more} more" if more > 0 else "")
