"""The origin of an imported model."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self


@dataclass(frozen=True)
class Origin:
    """The diffusers pipeline that a model was imported from.

    Attributes:
        pipeline: class name of the pipeline.
        scheduler: configuration of its scheduler.
        scheduler_class: class name of the scheduler; None for imports that predate this field.
    """

    pipeline: str
    scheduler: dict[str, Any]
    scheduler_class: str | None = None

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self | None:
        """Return the origin stored with a checkpoint's data set, or None if the model was trained here."""
        known = {field.name: data[field.name] for field in fields(cls) if field.name in data}
        return cls(**known) if {"pipeline", "scheduler"} <= set(known) else None
