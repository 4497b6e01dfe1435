"""Microbatches: which rows each step sees, and how they reach the training loop."""

from typing import TYPE_CHECKING

if not TYPE_CHECKING:
    from raysde.aliases import former_module

    __getattr__ = former_module(__name__)
