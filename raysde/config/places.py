"""Paths and URIs of a recipe, made absolute, so that they mean the same in every process.

A relative path starts from the folder in which the command was given; a worker may run in another folder.
"""

import copy
from collections.abc import Mapping
from typing import Any

from raysde.config.loading import RunConfig, parse_recipe
from raysde.io.filesystems import absolute_location, resolve_database, resolve_folder_or_name

PLACES = {
    "storage": absolute_location,
    "data.path": absolute_location,
    "text.path": resolve_folder_or_name,
    "latent.vae": resolve_folder_or_name,
    "tracking.uri": resolve_database,
}
"""Keys of a recipe that hold a path, and the function that makes each absolute; factories follow Python's own path."""
MIX = "data.mix"
"""The key with a list of mappings that hold a path each, resolved like ``data.path``."""


def resolve_place(key: str, value: Any) -> Any:
    """Return the value of a key with its path made absolute; other values are unchanged."""
    if key == MIX and isinstance(value, list):
        return [_resolve_source(each) for each in value]
    return PLACES[key](value) if key in PLACES and isinstance(value, str) else value


def _resolve_source(entry: Any) -> Any:
    if not isinstance(entry, Mapping) or "path" not in entry:
        return entry
    return {**entry, "path": resolve_place("data.path", entry["path"])}


def drop_data_places(key: str, value: Any) -> Any:
    """Return the value of a key without paths and versions of the data sets in ``data.mix``.

    Data sets may be moved, and their fingerprints identify them.
    """
    if key != MIX or value is None:
        return value
    return [{name: each[name] for name in each if name not in ("path", "version")} for each in value]


def resolve_places_in_tree(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's tree in which every path is absolute."""
    changed = copy.deepcopy(dict(tree))
    for key in (*PLACES, MIX):
        *parents, name = key.split(".")
        node: Any = changed
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if isinstance(node, dict) and name in node:
            node[name] = resolve_place(key, node[name])
    return changed


def resolve_places(config: RunConfig) -> RunConfig:
    """Return a recipe in which every path is absolute.

    Raises:
        ValueError: one sentence that names the first key at fault.
    """
    return parse_recipe(resolve_places_in_tree(config.model_dump(mode="json")))
