"""Models by name in the MLflow registry: what they look like there, and from candidate to champion."""

from raysde.registry.models import (
    ModelVersion,
    aliases_of,
    generation_of,
    identified,
    load,
    publish,
    register,
    registered,
    registered_models,
    resolve,
    resolve_checkpoint,
    versions,
)

__all__ = [
    "ModelVersion",
    "aliases_of",
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
