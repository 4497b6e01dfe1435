"""Class labels: the order of a data set's classes, and the numbers that a network knows them by.

A label is a word, such as ``dog``, or a number written in decimal, such as ``-1``. As text it is the name of a class,
and an int is a class number: the class named ``10`` need not be class number 10.
"""

import operator
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import date
from decimal import Decimal
from typing import Any

from raysde.io.near import find_nearest

Label = int | str
"""The name of a class, or its number."""
NUMBER = re.compile(r"-?\d+(\.\d+)?", re.ASCII)
DIGITS = re.compile(r"(\d+)", re.ASCII)
SHOWN = 20
"""Class names in a message at most."""


def order_labels(
    labels: Iterable[str], describe: Callable[[str], str] = lambda label: repr(label[:40])
) -> tuple[str, ...]:
    """Return the names of the classes in the order of their numbers, one for each label.

    Numbers come first, by their values; words follow, by their letters and the numbers in them (``class2``,
    ``class10``).

    Args:
        describe: a label in a message, perhaps with where it is.

    Raises:
        ValueError: if two labels are the same number in two spellings, such as ``3`` and ``3.0``.
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
    """Return the class number of each label: that of its name, or an int as it is.

    Args:
        labels: names or numbers; the number -1 stands for no class.
        classes: the number of classes; 0 for a model without.
        names: of the classes in the order of their numbers; empty if they are not known.

    Raises:
        ValueError: if there are no classes, or a label is neither the name of one nor an int.
    """
    if not classes:
        raise ValueError("a class label was given, but the model has no classes")
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
    """Return the label that a person writes: a class name where a model stores names, otherwise a class number.

    Raises:
        ValueError: if it is neither, naming the classes.
    """
    if text in names:
        return text
    if names or not classes or not re.fullmatch(r"-?\d{1,18}", text, re.ASCII):
        raise ValueError(describe_unknown(text, classes, names))
    return int(text)


def class_name(value: Any) -> Any:
    """Return the name of a class, which YAML may have read as a whole number.

    Raises:
        ValueError: if YAML took it for something that may be spelled in several ways.
    """
    if isinstance(value, bool | float | date) or value is None:
        raise ValueError("YAML takes a label here for no word: put it in quotes")
    return str(value) if isinstance(value, int) else value


def describe_unknown(label: str, classes: int, names: Sequence[str]) -> str:
    """Return a sentence that says that a label is no class, and which classes there are."""
    if not classes:
        return f"{label!r} is no class: the model has no classes"
    if not names:
        return f"{label!r} is no class number: the model stores no class names; give a number from 0 to {classes - 1}"
    found = find_nearest(label, names)
    hint = f"did you mean {' or '.join(map(repr, found))}? " if found else ""
    return f"{label!r} is no class; {hint}there are {join_names(names)}"


def join_names(names: Collection[str]) -> str:
    """Return names with commas between, of many the first alone."""
    shown = ", ".join(list(names)[:SHOWN])
    return f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else shown


def match_classes(data: Sequence[str], where: str, classes: int, names: Sequence[str]) -> tuple[int, ...]:
    """Return the model's class number for each class of a data set, matched by their names.

    Args:
        data: names of the data set's classes in the order of their numbers.
        where: the data set is, for messages.
        classes: the number of the model's classes, which is compared with the data's if it stores no names.
        names: of the model's classes in the order of their numbers; empty if it stores none.

    Raises:
        ValueError: naming a class that the model does not know, or both counts.
    """
    if not names:
        if len(data) != classes:
            raise ValueError(f"the model knows {classes} classes, the data at {where} has {len(data)}")
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
    """Return what tells two orders of classes apart, such as ``class 2 was 'cat', now 'dog'``; None if they agree."""
    for number, (old, new) in enumerate(zip(before, now, strict=False)):
        if old != new:
            return f"class {number} was {old!r}, now {new!r}"
    return None if len(before) == len(now) else f"there were {len(before)} classes, now {len(now)}"
