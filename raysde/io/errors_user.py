"""Errors in the user's words: what pydantic found wrong first, and work that was interrupted."""

from pydantic import ValidationError


class Interrupted(Exception):
    """Ctrl-C or SIGTERM ended work that can go on; the message says how."""


def first_mistake(error: ValidationError) -> tuple[str, str]:
    """The dotted path of the first value that is wrong, empty for the whole, and what is wrong with it."""
    first = error.errors()[0]
    return ".".join(str(part) for part in first["loc"]), first["msg"].removeprefix("Value error, ")
