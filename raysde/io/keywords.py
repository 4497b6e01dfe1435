"""Checks of misspelt keyword arguments, in the name of the function that was called."""

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar, get_args

from raysde.io.near import did_you_mean

P = ParamSpec("P")
R = TypeVar("R")


def own_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function whose ``**settings`` come from a TypedDict refuse unknown keyword arguments itself.

    Otherwise an inner function would refuse them, with a name that the caller never wrote. The decorated function
    raises TypeError for an unknown keyword argument and suggests the most similar names.
    """
    parameters = inspect.signature(function).parameters.values()
    known = {each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
    for each in parameters:
        known |= set(get_args(each.annotation)[0].__annotations__) if each.kind is each.VAR_KEYWORD else set()

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in known:
                raise TypeError(
                    f"{function.__name__}() got an unexpected keyword argument {name!r}{did_you_mean(name, known)}"
                )
        return function(*args, **kwargs)

    return call
