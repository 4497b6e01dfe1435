"""YAML and JSON written by people: plain values, no code, no repeated keys."""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import yaml

MERGE = "tag:yaml.org,2002:merge"
INT, FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
OTHER_BASE = re.compile(r"[-+]?0[0-7_]+|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
"""Numbers that YAML 1.1 reads in base 8 or 60: 010 is 8, and 1:30 is 90."""


def read_yaml(text: str, what: str) -> Any:
    """Return the value of a YAML document.

    Args:
        what: name of the document in error messages, such as ``recipe digits.yaml``.

    Raises:
        ValueError: if the text is not YAML, a mapping repeats a key (the message gives its lines), or a number is
            written in base 8 or 60.
    """
    twice: list[tuple[yaml.Node, yaml.Node]] = []
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        _check_bases(node, what)
        twice = list(find_repeated_keys(loader, node))
        value = None if node is None or twice else loader.construct_document(node)
    except OtherBase as error:
        raise ValueError(str(error)) from None
    except (yaml.YAMLError, ValueError) as error:
        # PyYAML raises ValueError for text that looks like a date or number and is neither
        raise ValueError(f"{what} is not valid YAML: {_describe_syntax(error)}") from error
    except RecursionError:
        raise ValueError(f"{what} is not valid YAML: it is nested too deeply") from None
    if twice:
        raise ValueError(f"{what}: {_describe_repeat(*twice[0])}; keep one of them")
    return value


def _describe_syntax(error: Exception) -> str:
    """Return the place and the message of a YAML error, without the excerpt that PyYAML adds."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return " ".join(str(error).split())
    return f"line {mark.line + 1}, column {mark.column + 1}: {getattr(error, 'problem', None) or 'not readable'}"


class OtherBase(ValueError):
    """Error for a number that YAML reads in another base than ten."""


def _check_bases(root: yaml.Node | None, what: str) -> None:
    """Raise OtherBase for the first number in base 8 or 60."""
    for node in _scalar_nodes(root):
        if node.tag in (INT, FLOAT) and OTHER_BASE.fullmatch(node.value):
            raise OtherBase(
                f"{what}, line {node.start_mark.line + 1}: YAML reads {node.value} as a number in base "
                f"{60 if ':' in node.value else 8}; write it in decimal, or as text in quotes"
            )


def _scalar_nodes(root: yaml.Node | None) -> Iterator[yaml.ScalarNode]:
    """Yield each scalar node of a document once, in order."""
    waiting, seen = [root] if root is not None else [], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            yield node
        else:
            waiting += reversed(_child_nodes(node))


def _child_nodes(node: yaml.Node) -> list[yaml.Node]:
    """Return the item nodes of a sequence, or the key and value nodes of a mapping."""
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    return [child for pair in node.value for child in pair]


def find_repeated_keys(loader: yaml.SafeLoader, root: yaml.Node | None) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    """Yield pairs of nodes with equal keys within one mapping.

    Merge keys (``<<``) are not resolved yet, since a key may override a merged one.
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
                    before = first.setdefault(_key_value(loader, key), key)
                    if before is not key:
                        yield before, key
        waiting += reversed(_child_nodes(node))


def _key_value(loader: yaml.SafeLoader, key: yaml.ScalarNode) -> Any:
    """Return the Python value of a key, so that 1, 0x1 and true are equal; a merge key equals only merge keys."""
    if key.tag == MERGE:
        return (MERGE,)
    return loader.construct_object(key)


def _describe_repeat(first: yaml.Node, second: yaml.Node) -> str:
    one, other = (node.start_mark.line + 1 for node in (first, second))
    lines = f"in line {one}" if one == other else f"in lines {one} and {other}"
    if first.value == second.value:
        return f"key {first.value!r} is given twice, {lines}"
    return f"key {first.value!r} is given twice, {lines}, where it is spelled {second.value!r}"


def read_json(text: str, what: str) -> Any:
    """Return the value of a JSON document.

    Args:
        what: name of the document in error messages, such as ``report report.json``.

    Raises:
        ValueError: if the text is not JSON, or an object repeats a key (the message gives the key).
    """

    def reject_repeated_keys(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise KeyError(key)
            found[key] = value
        return found

    try:
        return json.loads(text, object_pairs_hook=reject_repeated_keys)
    except KeyError as error:
        raise ValueError(f"{what}: key {error.args[0]!r} is given twice; keep one of them") from None
    except RecursionError:
        raise ValueError(f"{what} is not valid JSON: it is nested too deeply") from None
    except json.JSONDecodeError as error:
        lines = error.msg == "Extra data" and text[: error.pos].rstrip(" \t\r").endswith("\n")
        remedy = "; one document is expected, JSON lines belong in a .jsonl file" if lines else ""
        raise ValueError(f"{what} is not valid JSON: {error}{remedy}") from None
    except ValueError as error:
        raise ValueError(f"{what} is not valid JSON: {error}") from None
