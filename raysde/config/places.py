"""The places that a recipe names, made to mean the same in every process.

A relative path means a folder below the one in which the command was given. A worker may run in another one.
"""

import copy
from collections.abc import Mapping
from typing import Any

from raysde.config.loading import RunConfig, parse
from raysde.io.filesystems import database, folder_or_name, location

PLACES = {
    "storage": location,
    "data.path": location,
    "text.path": folder_or_name,
    "latent.vae": folder_or_name,
    "tracking.uri": database,
}
"""Keys of a recipe that hold a place, and how each is made absolute. A factory is found through Python's own path."""


def settled(key: str, value: Any) -> Any:
    """Return the value of a key as it reads in every process; other values than places stay as they are."""
    return PLACES[key](value) if key in PLACES and isinstance(value, str) else value


def absolute_tree(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's tree in which every place is absolute."""
    changed = copy.deepcopy(dict(tree))
    for key in PLACES:
        *parents, name = key.split(".")
        node: Any = changed
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if isinstance(node, dict) and name in node:
            node[name] = settled(key, node[name])
    return changed


def absolute(config: RunConfig) -> RunConfig:
    """Return a recipe in which every place is absolute."""
    return parse(absolute_tree(config.model_dump(mode="json")))
