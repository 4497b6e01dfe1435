"""Recipes from YAML files and dotted overrides (``sde.beta_max=10``), validated as
:class:`raysde.config.recipe.RunConfig`."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from raysde.config import reference
from raysde.config.builtin import resolve_builtin, suggest_builtin
from raysde.config.former import describe_former_keys
from raysde.config.recipe import RunConfig, flatten
from raysde.io.documents import read_yaml
from raysde.io.invalid import reword
from raysde.io.near import did_you_mean
from raysde.io.progress import say

__all__ = [
    "RunConfig",
    "assign_paths",
    "dump_yaml",
    "flatten",
    "load_recipe",
    "merge_overrides",
    "parse_assignment",
    "parse_recipe",
    "read_mapping",
    "set_path",
]


OFF = {
    "validation": "validation.rows=0",
    "sampling": "sampling.every=0",
    **{section: f"{section}=null" for section in ("text", "latent")},
}
"""Override that switches a section off, by section."""


def parse_recipe(tree: Any) -> RunConfig:
    """Validate a nested mapping as a recipe.

    Raises:
        ValueError: one sentence that names the first key at fault.
    """
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ValueError(_describe_error(error)) from None


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML recipe and apply ``a.b=value`` overrides, whose values are YAML.

    Args:
        path: path of a file, or the name of a built-in recipe, such as ``digits``.

    Raises:
        ValueError: if the file cannot be read, is not a mapping, or the result is no valid recipe.
    """
    tree = read_mapping(path, "recipe")
    merge_overrides(tree, overrides)
    for remark in describe_former_keys(tree):
        say(remark)
    return parse_recipe(tree)


def merge_overrides(tree: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set the dotted paths of ``a.b=value``, in any order.

    Raises:
        ValueError: if one does not read so, or is lost to another: two of the same key, or of a node and a key in it.
    """
    given = [parse_assignment(text) for text in overrides]
    paths = [keys for keys, _ in given]
    for number, (text, keys) in enumerate(zip(overrides, paths, strict=True)):
        if keys in paths[:number]:
            first = overrides[paths.index(keys)]
            raise ValueError(f"{'.'.join(keys)} is given twice, as {first!r} and {text!r}; keep one of them")
    assign_paths(tree, given)
    for text, (keys, value) in zip(overrides, given, strict=True):
        if not _has_value(tree, keys, value):
            raise ValueError(f"override {text!r} is undone by another override; keep one of them")


def _has_value(tree: Any, path: Sequence[str], value: Any) -> bool:
    """Return True if the path of a tree has this value."""
    for key in path:
        if not isinstance(tree, dict) or key not in tree:
            return False
        tree = tree[key]
    return bool(tree == value or tree != tree)


def read_mapping(path: str | Path, what: str) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Args:
        path: path of a file, or the name of a built-in one.
        what: kind of the file in errors, "recipe" or "sweep".

    Raises:
        ValueError: if the file cannot be read, a key is in it twice, or it holds something else.
    """
    try:
        text = Path(resolve_builtin(what, path)).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        hint = f"the {what} comes first, the overrides after it" if "=" in str(path) else suggest_builtin(what, path)
        raise ValueError(f"{what} {path} cannot be read: {error.strerror}; {hint}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} {path} is not UTF-8: {error.reason} at byte {error.start}") from error
    tree = read_yaml(text, f"{what} {path}")
    if not isinstance(tree, dict):
        raise ValueError(f"{what} {path} is not a mapping of keys to values; write one `key: value` on each line")
    return tree


def dump_yaml(tree: Mapping[str, Any]) -> str:
    """Return a recipe's tree as YAML for :func:`load_recipe`."""
    return yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True, width=120)


def assign_paths(tree: dict[str, Any], assignments: Sequence[tuple[list[str], Any]]) -> None:
    """Set dotted paths of a recipe; their order has no effect."""
    # a new kind or preset clears its node, so it is set before the keys of that node
    for keys, value in sorted(assignments, key=lambda given: _assignment_rank(given[0])):
        set_path(tree, keys, value)
    for keys, value in assignments:
        # restore a kind that a preset given beside it has cleared, so that the two are compared
        if keys == ["network", "kind"] and isinstance(tree["network"], dict):
            tree["network"].setdefault("kind", value)
    for node, default in (("sde", "vp"), ("network", "unet")):
        # without a kind, the keys of a node belong to the default kind
        if isinstance(tree.get(node), dict) and not tree[node].get("preset"):
            tree[node].setdefault("kind", default)


def parse_assignment(override: str) -> tuple[list[str], Any]:
    """Return the path and the value of ``a.b=value``.

    Raises:
        ValueError: if the text has another form, or the value is not YAML.
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ValueError(f"override {override!r} must read key=value, such as sde.beta_max=10")
    return key.split("."), read_yaml(text, f"the value of override {override!r}")


def format_override(value: Any) -> str:
    """Return a JSON value in the form of an override, in one line; YAML writes 1e-05 as 1.0e-05."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{format_override(key)}: {format_override(one)}' for key, one in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(format_override, value))}]"
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("e", ".0e") if isinstance(value, float) and "." not in text else text


def _assignment_rank(path: Sequence[str]) -> int:
    """Return the order of assignment: kinds (0) and presets (1) come before the other keys of their node (2)."""
    return 0 if path[-1] == "kind" else 1 if list(path) == ["network", "preset"] else 2


def set_path(tree: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set a dotted path.

    A new ``kind`` or ``preset`` replaces its whole node, since the old keys have no meaning for it. Setting one unit of
    ``train.length`` makes the others null, since a recipe has exactly one.
    """
    for key in path[:-1]:
        node = tree.get(key)
        if not isinstance(node, dict):
            node = tree[key] = {}
        tree = node
    if _assignment_rank(path) < 2 and tree.get(path[-1]) != value:
        tree.clear()
    if list(path[:-1]) == ["train", "length"] and value is not None:
        tree.update(dict.fromkeys(tree))
    tree[path[-1]] = value


UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
"""Types of pydantic's errors about a key that does not exist."""


def _describe_error(error: ValidationError) -> str:
    first, meanings = error.errors()[0], reference.list_meanings()
    is_unknown = first["type"] in UNKNOWN
    path: list[str] = []
    for number, part in enumerate(first["loc"], 1):
        # pydantic also names the member of a union that it tried, such as the kind of a node, which is no key
        is_in_list = isinstance(part, int) or (bool(path) and path[-1].isdigit())
        if is_in_list or ".".join([*path, str(part)]) in meanings or (is_unknown and number == len(first["loc"])):
            path.append(str(part))
    where = ".".join(path)
    if is_unknown and where in meanings:
        kind = next(str(part) for part in reversed(first["loc"]) if str(part) not in path)
        return (
            f"key {where!r} is none of {where.rpartition('.')[0]}.kind={kind}; `raysde config` lists the keys of each"
        )
    if is_unknown:
        return f"unknown key {where!r}{did_you_mean(where, meanings, meanings)}; `raysde config` lists all keys"
    if first["type"] == "missing" and isinstance(first["loc"][-1], int):
        return f"{'.'.join(path[:-1])}: it has too few values, got {json.dumps(first['input'], default=str)}"
    if first["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        beside = [each["loc"] for each in error.errors() if each["type"] in UNKNOWN]
        strange = [str(loc[-1]) for loc in beside if loc[:-1] == first["loc"][:-1]]
        near = f", and {strange[0]!r} is unknown{did_you_mean(strange[0], [path[-1]])}" if strange else ""
        return f"key {where!r} is required{near}"
    if first["type"] == "too_short":
        return f"{where}: must have an entry, got {json.dumps(first['input'], default=str)}"
    message, given = reword(first["msg"]), first["input"]
    if first["type"] == "union_tag_invalid":
        where, given = f"{where}.kind", first["ctx"]["tag"]
        message = f"must be one of {first['ctx']['expected_tags']}"
    if first["type"] in ("literal_error", "union_tag_invalid"):
        choices = re.findall(r"'([^']*)'", message)
        message += f", got {json.dumps(given, default=str)}{did_you_mean(str(given), choices)}"
    if first["type"] == "union_tag_not_found" and isinstance(given, Mapping):
        return f"key '{where}.kind' is required"
    if first["type"] in ("model_type", "model_attributes_type", "dataclass_type", "union_tag_not_found"):
        keys = [key for key in meanings if key.startswith(f"{where}.")]
        # the keys of an entry of a list, such as data.mix.0, are not listed
        leaves = [key for key in keys if not any(other.startswith(f"{key}.") for other in keys)] or [f"{where}.KEY"]
        remedy = f"{OFF[where]} switches it off" if where in OFF else f"set its keys, such as {leaves[0]}=VALUE"
        message = f"it is a section of keys, got {json.dumps(given, default=str)}; {remedy}"
    shown = f", got {json.dumps(given, default=str)}" if not isinstance(given, dict) and "got" not in message else ""
    return f"{where}: {message}{shown}" if where else message
