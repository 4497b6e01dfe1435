"""The shapes of what functions of callers give: values of another shape may broadcast and mean nothing."""

import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from raysde.io.own_code import OwnCodeError


def of_shape(value: Any, shape: Sequence[int], giver: str) -> Tensor:
    """Return a value that is a tensor of a shape.

    Args:
        giver: of the value, for the message.

    Raises:
        OwnCodeError: if it is anything else.
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
