"""The reference of the recipe's keys, from the JSON schema of the classes that validate them."""

import textwrap
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from raysde.config.recipe import RunConfig

Schema = Mapping[str, Any]
TYPES = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "array": "list",
    "object": "mapping",
    "null": "null",
}


class KeyEntry(NamedTuple):
    """A key, or a node of keys.

    Attributes:
        path: dotted path.
        type: values that the key takes; empty for a node.
        default: "required", or "default" and the value as YAML; for the kind of a node, "the default" if it is, else
            empty; empty for a node.
        meaning: the explanation.
    """

    path: str
    type: str
    default: str
    meaning: str


def format_reference() -> str:
    """Return every key with its type, default and meaning."""
    lines = ["# Every key of a recipe. Nested keys are written with dots on the command line: train.lr=1e-3", ""]
    for entry in list_entries():
        if entry.type:
            lines.append(f"{entry.path:<28} {', '.join(filter(None, entry[1:3]))}")
            lines += textwrap.wrap(
                entry.meaning, 100, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False
            )
        else:
            lines += ["", f"# {entry.path}: {entry.meaning}"]
    return "\n".join(lines)


def list_keys() -> set[str]:
    """Return all dotted paths that :func:`format_reference` explains."""
    return {entry.path for entry in list_entries() if entry.type}


@lru_cache(maxsize=1)
def list_meanings() -> dict[str, str]:
    """Return the meaning of each key of :func:`list_keys`, and an empty text for each node."""
    found: dict[str, str] = {}
    for entry in list_entries():
        meaning = entry.meaning if entry.type else ""
        found[entry.path] = f"{found.get(entry.path, '')} {meaning}".strip()
    return found


@lru_cache(maxsize=1)
def list_entries() -> tuple[KeyEntry, ...]:
    """Return the keys and nodes of a recipe; a key that several kinds of a node share occurs once for each."""
    schema = RunConfig.model_json_schema()
    return tuple(_list_node(schema, "", None, schema["$defs"]))


def _list_node(node: Schema, prefix: str, given: Any, definitions: Schema) -> Iterator[KeyEntry]:
    """Yield the keys of a node, with the defaults of ``given`` if the node itself has a default."""
    known = given if isinstance(given, Mapping) else {}
    # a dataclass with a base lists its kind last
    for name, field in sorted(node["properties"].items(), key=lambda item: item[0] != "kind"):
        path, meaning = f"{prefix}{name}", field.get("description", "")
        default = known.get(name, field.get("default"))
        options = list(_list_options(field, definitions))
        nodes = [option for option in options if "properties" in option]
        leaves = [option for option in options if "properties" not in option]
        if nodes and all(leaf == {"type": "null"} for leaf in leaves):
            yield KeyEntry(path, "", "", meaning)
        else:
            is_required = name in node.get("required", ()) and name not in known
            yield KeyEntry(
                path, _format_type(leaves), "required" if is_required else f"default {_format_value(default)}", meaning
            )
        for option in nodes:
            yield from _list_variant(option, path, default, definitions)


def _list_variant(option: Schema, path: str, default: Any, definitions: Schema) -> Iterator[KeyEntry]:
    """Yield the keys of one kind of a node."""
    kind = option["properties"].get("kind")
    if kind is None:
        yield from _list_node(option, f"{path}.", default, definitions)
        return
    is_default = isinstance(default, Mapping) and default.get("kind") == kind["const"]
    summary = " ".join(option["description"].partition("\n\n")[0].split()).removesuffix(".")
    yield KeyEntry(f"{path}.kind", kind["const"], "the default" if is_default else "", summary)
    rest = {name: field for name, field in option["properties"].items() if name != "kind"}
    yield from _list_node({**option, "properties": rest}, f"{path}.", None, definitions)


def _list_options(field: Schema, definitions: Schema) -> Iterator[Schema]:
    """Yield the possible schemas of a value, without references and unions; keys shared by all kinds come first."""
    if "$ref" in field:
        yield from _list_options(definitions[field["$ref"].rpartition("/")[2]], definitions)
    elif union := field.get("anyOf") or field.get("oneOf"):
        if "properties" in field:
            yield {"properties": field["properties"]}
        for option in union:
            yield from _list_options(option, definitions)
    else:
        yield field


def _format_type(options: list[Schema]) -> str:
    return " or ".join(" | ".join(option["enum"]) if "enum" in option else TYPES[option["type"]] for option in options)


def _format_value(value: Any) -> str:
    """Return a value as YAML writes it."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_format_value, value))}]"
    return {None: "null", True: "true", False: "false"}[value] if isinstance(value, bool | None) else str(value)
