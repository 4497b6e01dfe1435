"""Settings of a recipe's dataclasses: a default and the description that `raysde config` prints."""

from dataclasses import field
from typing import TypeVar

T = TypeVar("T")


def setting(default: T, description: str) -> T:
    """Return a dataclass field with a default and a description, which pydantic copies into the JSON schema."""
    return field(default=default, metadata={"description": description})
