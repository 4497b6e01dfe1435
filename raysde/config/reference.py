"""The recipe's keys as text, from the same definitions that check them."""

import dataclasses
import inspect
import re
import textwrap
import types
import typing
from functools import lru_cache
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from raysde.config.recipe import RunConfig
from raysde.networks import PRESETS

PRESET = "a published size by name; it says the kind, and other keys of the network override its own"


def reference() -> str:
    """Every key with its type, default and meaning."""
    lines = ["# Every key of a recipe. Nested keys are written with dots on the command line: train.lr=1e-3", ""]
    lines += _model(RunConfig, "")
    return "\n".join(lines)


def keys() -> set[str]:
    """All dotted paths that :func:`reference` explains."""
    found = (re.match(r"([a-z_.0-9]+) ", line) for line in _model(RunConfig, ""))
    return {match[1] for match in found if match}


@lru_cache(maxsize=1)
def meanings() -> dict[str, str]:
    """Return what each key of :func:`keys` means, and an empty text for each node."""
    found: dict[str, str] = {}
    path = ""
    for line in _model(RunConfig, ""):
        if match := re.match(r"([a-z_.0-9]+) ", line):
            path = match[1]
            found.setdefault(path, "")
        elif line.startswith("    ") and path:
            found[path] = f"{found[path]} {line.strip()}".strip()
    nodes = {".".join(key.split(".")[:depth]) for key in found for depth in range(1, key.count(".") + 1)}
    return found | dict.fromkeys(nodes - found.keys(), "")


def _model(model: type[BaseModel], prefix: str, given: BaseModel | None = None) -> list[str]:
    """Return the lines of a node's keys; their defaults are what ``given`` has, if the node itself has a default."""
    lines: list[str] = []
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        nested = [option for option in _options(field.annotation) if _is_model(option)]
        variants = [option for option in _options(field.annotation) if dataclasses.is_dataclass(option)]
        if nested:
            lines += [
                "",
                f"# {path}: {field.description}",
                *_model(nested[0], f"{path}.", _default(field, name, given)),
            ]
        elif variants:
            lines += ["", f"# {path}: {field.description}"]
            if path == "network":
                lines += _key("network.preset", "text", "null", f"{PRESET}: {', '.join(PRESETS)}")
            for variant in variants:
                lines += _variant(variant, path)  # type: ignore[arg-type]
        else:
            default = "required" if given is None and field.is_required() else _shown(_default(field, name, given))
            lines += _key(path, _type(field.annotation), default, field.description or "")
    return lines


def _default(field: FieldInfo, name: str, given: BaseModel | None) -> Any:
    """Return the value of a key that a recipe does not give; None also for one that it has to give."""
    if given is not None:
        return getattr(given, name)
    return None if field.is_required() else field.get_default(call_default_factory=True)


def _variant(variant: type, path: str) -> list[str]:
    kind = next((f.default for f in dataclasses.fields(variant) if f.name == "kind"), None)
    meanings = _attributes(variant)
    title = (inspect.getdoc(variant) or "").splitlines()[0]
    lines = [] if kind is None else _key(f"{path}.kind", "text", str(kind), title)
    for field in dataclasses.fields(variant):
        if field.name != "kind":
            default = (
                "required"
                if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
                else field.default
            )
            hints = typing.get_type_hints(variant)
            shown = "{}" if field.default_factory is not dataclasses.MISSING else _shown(default)
            lines += _key(f"{path}.{field.name}", _type(hints[field.name]), shown, meanings.get(field.name, ""))
    return lines


def _attributes(variant: type) -> dict[str, str]:
    """The ``Attributes`` of a class and its bases, by name."""
    result: dict[str, str] = {}
    for base in reversed(variant.__mro__):
        doc = inspect.cleandoc(base.__doc__ or "")
        section = doc.partition("Attributes:")[2]
        for names, meaning in re.findall(r"^    ([\w, ]+): ((?:.|\n(?!    \w[\w, ]*:))*)", section, flags=re.MULTILINE):
            for name in names.split(","):
                result[name.strip()] = " ".join(meaning.split())
    return result


def _key(path: str, kind: str, default: str, meaning: str) -> list[str]:
    head = f"{path:<28} {kind}, default {default}" if default != "required" else f"{path:<28} {kind}, required"
    return [head, *textwrap.wrap(meaning, 100, initial_indent="    ", subsequent_indent="    ")]


def _options(annotation: Any) -> list[Any]:
    if get_origin(annotation) is typing.Annotated:
        plain, *marks = get_args(annotation)
        choices = next((mark.choices for mark in marks if hasattr(mark, "choices")), None)
        return _options(plain) if choices is None else [Literal[choices]]
    if get_origin(annotation) in (typing.Union, types.UnionType):
        return [inner for option in get_args(annotation) for inner in _options(option)]
    return [annotation]


def _is_model(option: Any) -> bool:
    return isinstance(option, type) and issubclass(option, BaseModel)


def _type(annotation: Any) -> str:
    names = []
    for option in _options(annotation):
        if get_origin(option) is Literal:
            names.append(" | ".join(str(value) for value in get_args(option)))
        elif get_origin(option) is tuple:
            names.append("list")
        else:
            known = {
                "int": "whole number",
                "float": "number",
                "str": "text",
                "bool": "true or false",
                "NoneType": "null",
            }
            name = getattr(get_origin(option) or option, "__name__", str(option))
            names.append(known.get(name, name))
    return " or ".join(names)


def _shown(value: Any) -> str:
    """As YAML writes it."""
    return {None: "null", True: "true", False: "false"}[value] if isinstance(value, bool | None) else str(value)
