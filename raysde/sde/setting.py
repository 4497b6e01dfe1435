"""A setting of a dataclass that a recipe holds: its default, and the explanation that `raysde config` prints."""

from dataclasses import field
from typing import TypeVar

T = TypeVar("T")


def setting(default: T, description: str) -> T:
    """Return a dataclass field with a default and an explanation, in the form that pydantic's JSON schema takes."""
    return field(default=default, metadata={"description": description})
