"""YAML and JSON that people write: plain values, no code, and no key that is given twice."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import yaml

MERGE = "tag:yaml.org,2002:merge"


def read_yaml(text: str, what: str) -> Any:
    """Return the value of a YAML document.

    Args:
        what: the name of the document in errors, such as ``recipe digits.yaml``.

    Raises:
        ValueError: if the text is not YAML, or a mapping has a key twice, naming the key and its lines.
    """
    twice: list[tuple[yaml.Node, yaml.Node]] = []
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        twice = list(repeated(loader, node))
        value = None if node is None or twice else loader.construct_document(node)
    except (yaml.YAMLError, ValueError) as error:
        # a ValueError is of a value that looks like a date or a number and is none
        raise ValueError(f"{what} is not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise ValueError(f"{what} is not valid YAML: it is nested too deeply") from None
    if twice:
        raise ValueError(f"{what}: {_said(*twice[0])}; keep one of them")
    return value


def repeated(loader: yaml.SafeLoader, root: yaml.Node | None) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    """Yield the nodes of keys that are equal within one mapping.

    Merge keys (``<<``) are not resolved yet, since a key beside one may replace what it brings.
    """
    waiting, seen = [root] if root is not None else [], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen or isinstance(node, yaml.ScalarNode):
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            first: dict[Any, yaml.Node] = {}
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode):
                    before = first.setdefault(_value(loader, key), key)
                    if before is not key:
                        yield before, key
        children = (
            node.value if isinstance(node, yaml.SequenceNode) else [child for pair in node.value for child in pair]
        )
        waiting += reversed(children)


def _value(loader: yaml.SafeLoader, key: yaml.ScalarNode) -> Any:
    """Return what a key is in Python, where 1, 0x1 and true are equal; a merge key is equal to merge keys alone."""
    if key.tag == MERGE:
        return (MERGE,)
    return loader.construct_object(key)


def _said(first: yaml.Node, second: yaml.Node) -> str:
    one, other = (node.start_mark.line + 1 for node in (first, second))
    lines = f"in line {one}" if one == other else f"in lines {one} and {other}"
    if first.value == second.value:
        return f"key {first.value!r} is given twice, {lines}"
    return f"key {first.value!r} is given twice, {lines}, where it is spelled {second.value!r}"


def read_json(text: str, what: str) -> Any:
    """Return the value of a JSON document.

    Args:
        what: the name of the document in errors, such as ``report report.json``.

    Raises:
        ValueError: if the text is not JSON, or an object has a key twice, naming the key.
    """

    def unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise KeyError(key)
            found[key] = value
        return found

    try:
        return json.loads(text, object_pairs_hook=unique)
    except KeyError as error:
        raise ValueError(f"{what}: key {error.args[0]!r} is given twice; keep one of them") from None
    except RecursionError:
        raise ValueError(f"{what} is not valid JSON: it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{what} is not valid JSON: {error}") from None
