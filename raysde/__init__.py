"""Score-based generative models through stochastic differential equations, from a laptop to a Ray cluster."""

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["load"]

if TYPE_CHECKING:
    from raysde.registry import load


def __getattr__(name: str) -> object:
    # loaded on first use: the mathematics stays importable without MLflow
    if name == "load":
        from raysde.registry import load

        return load
    raise AttributeError(f"module 'raysde' has no attribute {name!r}")
