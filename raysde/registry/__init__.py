"""The model registry of MLflow: registration, lookup by name, and promotion from candidate to champion."""

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
