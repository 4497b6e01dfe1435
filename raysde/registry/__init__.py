"""The model registry of MLflow: registration, lookup by name, and promotion from candidate to champion."""

from typing import TYPE_CHECKING

from raysde.aliases import import_on_first_use

if TYPE_CHECKING:
    from raysde.registry.models import (
        ModelVersion,
        find_version,
        generation_of,
        list_aliases,
        list_registered_models,
        list_versions,
        load,
        resolve_checkpoint,
        resolve_source,
        resolve_with_subject,
    )
    from raysde.registry.publishing import check_model_name, publish_checkpoint, register_model

__all__ = [
    "ModelVersion",
    "check_model_name",
    "find_version",
    "generation_of",
    "list_aliases",
    "list_registered_models",
    "list_versions",
    "load",
    "publish_checkpoint",
    "register_model",
    "resolve_checkpoint",
    "resolve_source",
    "resolve_with_subject",
]

# loaded on first use: importing MLflow takes seconds, in which a command that trains starts Ray
__getattr__ = import_on_first_use(
    __name__,
    {
        "raysde.registry.models": (
            "ModelVersion",
            "find_version",
            "generation_of",
            "list_aliases",
            "list_registered_models",
            "list_versions",
            "load",
            "resolve_checkpoint",
            "resolve_source",
            "resolve_with_subject",
        ),
        "raysde.registry.publishing": ("check_model_name", "publish_checkpoint", "register_model"),
    },
)
