"""Names of columns and keys, compared without case, white space at both ends, and the kind of mark between words."""

import re
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import Any


@lru_cache(maxsize=4096)
def normalise_name(name: str) -> str:
    """Return the form in which names are compared: ``file_name`` for ``File Name`` and `` FILE-NAME ``."""
    return re.sub(r"[\s\-]+", "_", name.strip()).casefold()


def find_spellings(names: Iterable[str], wanted: Collection[str]) -> dict[str, str]:
    """Return the wanted names that are there, in the order of ``wanted``, with their spelling.

    Raises:
        ValueError: if one of them is there in two spellings; naming both.
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
    """Return the values that a row has for the wanted names, by their spelling; without empty ones.

    Raises:
        ValueError: if one of the names is there in two spellings.
    """
    names = find_spellings(row, wanted).values()
    return {name: row[name] for name in names if row[name] not in (None, "", [])}


def summarise_columns(names: Iterable[str], limit: int = 12) -> str:
    """Return some names of columns for a message, and how many more there are."""
    there = list(names)
    more = len(there) - limit
    return ", ".join(name or "''" for name in there[:limit]) + (f" and {more} more" if more > 0 else "")
