"""Models by name in the MLflow registry: what they look like there, and from candidate to champion."""

from raysde.registry.models import (
    ModelVersion,
    aliases_of,
    generation_of,
    identified,
    load,
    registered,
    registered_models,
    resolve,
    resolve_checkpoint,
    versions,
)
from raysde.registry.publishing import check_name, publish, register

__all__ = [
    "ModelVersion",
    "aliases_of",
    "check_name",
    "generation_of",
    "identified",
    "load",
    "publish",
    "register",
    "registered",
    "registered_models",
    "resolve",
    "resolve_checkpoint",
    "versions",
]
