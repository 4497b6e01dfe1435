"""Class labels: the order of a data set's classes, and their numbers in a network.

A label is a word, such as ``dog``, or a decimal number, such as ``-1``. A str is the name of a class and an int is a
class number: the class named ``10`` need not be class number 10.
"""

import operator
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import date
from decimal import Decimal
from typing import Any

from raysde.io.near import find_nearest

Label = int | str
"""Name of a class, or class number."""
NUMBER = re.compile(r"-?\d+(\.\d+)?", re.ASCII)
DIGITS = re.compile(r"(\d+)", re.ASCII)
SHOWN = 20
"""Maximum number of class names in a message."""


def order_labels(
    labels: Iterable[str], describe: Callable[[str], str] = lambda label: repr(label[:40])
) -> tuple[str, ...]:
    """Return the distinct labels as class names, ordered by class number.

    Numbers come first, by value. Words follow in natural order, in which ``class2`` precedes ``class10``.

    Args:
        describe: returns a label, with its place if known, as text for a message.

    Raises:
        ValueError: if two labels spell the same number differently, such as ``3`` and ``3.0``.
    """
    spellings: dict[Decimal, str] = {}
    distinct = sorted(set(labels))
    for label in distinct:
        if NUMBER.fullmatch(label):
            other = spellings.setdefault(Decimal(label), label)
            if other != label:
                raise ValueError(
                    f"labels {describe(other)} and {describe(label)} are the same number; spell it one way"
                )
    numbers = [spellings[value] for value in sorted(spellings)]
    return (*numbers, *sorted((label for label in distinct if not NUMBER.fullmatch(label)), key=_natural_key))


def _natural_key(label: str) -> tuple[list[Any], str]:
    """Return a key by which ``class2`` sorts before ``class10``: letters and numbers alternate, letters first."""
    parts: list[Any] = DIGITS.split(label)
    return [Decimal(part) if place % 2 else part for place, part in enumerate(parts)], label


def class_numbers(labels: Iterable[Any], classes: int, names: Sequence[str]) -> list[int]:
    """Return the class number of each label; ints are returned unchanged and not compared with ``classes``.

    Args:
        labels: class names or class numbers; -1 means no class.
        classes: number of classes; 0 for a model without classes.
        names: class names, ordered by class number; empty if they are unknown.

    Raises:
        ValueError: if the model has no classes, or a label is neither a class name nor an int.
    """
    if not classes:
        raise ValueError("a class label was given, but the model has no classes; leave the labels out")
    places = {name: number for number, name in enumerate(names)}
    found = []
    for label in labels:
        if isinstance(label, str):
            if label not in places:
                raise ValueError(f"label {describe_unknown(label, classes, names)}")
            found.append(places[label])
            continue
        number: Any = None if isinstance(label, bool) else label
        try:
            found.append(operator.index(number))
        except TypeError:
            raise ValueError(f"label {label!r} is neither a class name nor a class number") from None
    return found


def label_from_text(text: str, classes: int, names: Sequence[str]) -> Label:
    """Parse a label from the command line: a class name if the model stores names, otherwise a class number.

    Raises:
        ValueError: if it is neither, listing the classes.
    """
    if text in names:
        return text
    if names or not classes or not re.fullmatch(r"-?\d{1,18}", text, re.ASCII):
        raise ValueError(describe_unknown(text, classes, names))
    return int(text)


def class_name(value: Any) -> Any:
    """Return a class name from a YAML value as text; YAML reads a name such as ``10`` as an int.

    Raises:
        ValueError: if YAML read a boolean, float, date or null, whose spelling is lost.
    """
    if isinstance(value, bool | float | date) or value is None:
        raise ValueError(f"YAML reads a label as {value!r} and not as text; put it in quotes")
    return str(value) if isinstance(value, int) else value


def describe_unknown(label: str, classes: int, names: Sequence[str]) -> str:
    """Return an error sentence for a label that is no class; it suggests a similar name and lists the classes."""
    if not classes:
        return f"{label!r} is no class: the model has no classes; leave the labels out"
    if not names:
        return f"{label!r} is no class number: the model stores no class names; give a number from 0 to {classes - 1}"
    found = find_nearest(label, names)
    hint = f"did you mean {' or '.join(map(repr, found))}? " if found else ""
    return f"{label!r} is no class; {hint}there are {join_names(names)}"


def join_names(names: Collection[str]) -> str:
    """Return names joined by commas; after the first ``SHOWN`` only the number of further names."""
    shown = ", ".join(list(names)[:SHOWN])
    return f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else shown


def match_classes(data: Sequence[str], where: str, classes: int, names: Sequence[str]) -> tuple[int, ...]:
    """Return the model's class number for each class of a data set, matched by name.

    Args:
        data: the data set's class names, ordered by class number.
        where: path of the data set, for messages.
        classes: number of the model's classes; without names only the two numbers are compared.
        names: the model's class names, ordered by class number; empty if it stores none.

    Raises:
        ValueError: if the model lacks a class of the data set, or has another number of classes and no names.
    """
    if not names:
        if len(data) != classes:
            raise ValueError(
                f"the model knows {classes} classes, the data at {where} has {len(data)}"
                "; use data with the model's classes"
            )
        return tuple(range(classes))
    places = {name: number for number, name in enumerate(names)}
    for name in data:
        if name not in places:
            raise ValueError(
                f"the data at {where} has a class that the model does not know: "
                f"{describe_unknown(name, classes, names)}"
            )
    return tuple(places[name] for name in data)


def describe_difference(before: Sequence[str], now: Sequence[str]) -> str | None:
    """Return the first difference of two lists of classes, such as ``class 2 was 'cat', now 'dog'``; None if equal."""
    for number, (old, new) in enumerate(zip(before, now, strict=False)):
        if old != new:
            return f"class {number} was {old!r}, now {new!r}"
    return None if len(before) == len(now) else f"there were {len(before)} classes, now {len(now)}"
