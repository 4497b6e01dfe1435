"""The first fault that pydantic found in a value, as a path and a sentence."""

from pydantic import ValidationError


def first_mistake(error: ValidationError) -> tuple[str, str]:
    """The dotted path of the first value that is wrong, empty for the whole, and what is wrong with it."""
    first = error.errors()[0]
    return ".".join(str(part) for part in first["loc"]), first["msg"].removeprefix("Value error, ")
