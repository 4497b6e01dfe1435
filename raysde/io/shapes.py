"""Checks of shapes that user functions return: a wrong shape may broadcast silently."""

import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from raysde.io.own_code import OwnCodeError


def of_shape(value: Any, shape: Sequence[int], giver: str) -> Tensor:
    """Return ``value`` if it is a tensor of the given shape.

    Args:
        giver: name of the function that returned the value, for the message.

    Raises:
        OwnCodeError: if it is not a tensor, or has another shape.
    """
    if not isinstance(value, Tensor):
        raise OwnCodeError(f"{giver} gave a {type(value).__name__}, expected a tensor of shape {list(shape)}")
    if value.shape != shape:
        raise OwnCodeError(f"{giver} gave values of shape {list(value.shape)}, expected {list(shape)}")
    return value


def place_of(call: Any) -> str:
    """Return the import path of a function, or of the class of another object."""
    call = inspect.unwrap(call)
    named = call if hasattr(call, "__qualname__") else type(call)
    return f"{named.__module__}.{named.__qualname__}"
