"""All mistakes: one module per package of raysde."""

from importlib import import_module

from tools.mutants.mutant import Mutant

PACKAGES = (
    *("sde", "sampling", "networks", "conditioning", "models", "training", "distributed", "checkpoints"),
    *("data", "images", "inference", "evaluation", "tuning", "runs", "config", "interop"),
    *("tracking", "registry", "cluster", "commands", "io"),
)


def all_mutants() -> list[Mutant]:
    """Return the mistakes of all packages."""
    return [mutant for package in PACKAGES for mutant in import_module(f"tools.mutants.{package}").MUTANTS]


def chosen(only: str) -> list[Mutant]:
    """Return the mistakes with ``only`` in their name, module or package.

    Raises:
        ValueError: if there are none.
    """
    found = [mutant for mutant in all_mutants() if only in mutant.what or only in mutant.where]
    if not found:
        raise ValueError(f"--only {only}: no mistake has this in its name, module or package")
    return found
