"""The first validation error of pydantic as a path and a message in the words of raysde's own messages."""

import re

from pydantic import ValidationError

WORDS = (
    ("greater than or equal to ", "at least "),
    ("less than or equal to ", "at most "),
    ("greater than ", "above "),
    ("less than ", "below "),
    ("a valid number", "a number"),
    ("a valid integer", "an integer"),
    ("a valid string", "text"),
    ("a valid boolean", "true or false"),
    ("a valid tuple", "a list"),
    ("a valid list", "a list"),
    ("a valid dictionary", "a mapping"),
)
"""Pydantic's descriptions of values, and the words for them in a recipe."""


def first_mistake(error: ValidationError) -> tuple[str, str]:
    """Return the dotted path of the first invalid value (empty for the whole value) and its message."""
    first = error.errors()[0]
    return ".".join(str(part) for part in first["loc"]), reword(first["msg"])


def reword(message: str) -> str:
    """Return a message of pydantic as "must be ..." without the name of its error; other messages stay the same."""
    message = message.removeprefix("Value error, ")
    if message.startswith("Unable to parse input string as an integer, exceeded"):
        return "must be an integer with fewer digits"
    if not message.startswith("Input should be "):
        return message
    message = re.sub(r", unable to (parse|interpret) .*$", "", message.removeprefix("Input should be "))
    for theirs, ours in WORDS:
        if message.startswith(theirs):
            message = ours + message.removeprefix(theirs)
            break
    return f"must be {message}"
