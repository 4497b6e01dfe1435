"""Keys of a recipe with a better name now; the former name keeps working for one release."""

from collections.abc import Mapping
from typing import Any

FORMER = {"keep_checkpoints": ("keep", "newest")}
"""Current section and key of each former key."""


def rename_former_keys(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's tree with the current names of its keys.

    Raises:
        ValueError: if a key is given under both names.
    """
    found = dict(tree)
    for former, (section, key) in FORMER.items():
        if former not in found:
            continue
        value, node = found.pop(former), found.get(section, {})
        if not isinstance(node, Mapping):
            continue  # the section itself is refused
        if key in node and node[key] != value:
            raise ValueError(f"{former} is called {section}.{key} now, and both are given; keep {section}.{key}")
        found[section] = {**node, key: value}
    return found


def describe_former_keys(tree: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each key of a recipe's tree that has another name now."""
    return [f"{former} is called {'.'.join(now)} now" for former, now in FORMER.items() if former in tree]
