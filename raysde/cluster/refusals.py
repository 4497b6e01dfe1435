"""Errors that a restarted worker group would meet again."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import raysde


class RefusedError(ValueError):
    """A refusal of the recipe or its data by a worker, such as storage that the nodes do not share."""


@contextmanager
def mark_refusals() -> Iterator[None]:
    """Turn each ValueError that raysde itself raises inside this context into a RefusedError.

    Subclasses of ValueError, and those that other libraries raise, pass unchanged: another attempt may succeed.

    Raises:
        RefusedError: with the error's message.
    """
    try:
        yield
    except ValueError as error:
        raising = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if type(error) is not ValueError or Path(raysde.__file__).parent not in raising.parents:
            raise
        raise RefusedError(str(error)) from error
