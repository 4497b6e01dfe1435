"""Keyword arguments that are misspelt, named as those of the function that was called."""

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar, get_args

from raysde.io.near import did_you_mean

P = ParamSpec("P")
R = TypeVar("R")


def own_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function whose ``**settings`` are unpacked from a TypedDict refuse other keyword arguments itself.

    Otherwise the function that they are passed on to would, by a name that the caller never wrote. Calls raise
    TypeError, as Python does for an unknown keyword argument, with the names most like it.
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
