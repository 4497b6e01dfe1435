"""The first validation error of pydantic as a path and a message."""

from pydantic import ValidationError


def first_mistake(error: ValidationError) -> tuple[str, str]:
    """Return the dotted path of the first invalid value (empty for the whole value) and its message."""
    first = error.errors()[0]
    return ".".join(str(part) for part in first["loc"]), first["msg"].removeprefix("Value error, ")
