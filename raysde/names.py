"""What things may be called: names of runs and registered models, and aliases of versions."""

import re

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
LONGEST = 200
"""Characters of a name; file systems and MLflow's databases keep about 255, with what is added to it."""
ALIAS = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
RESERVED = re.compile(r"latest|v\d+", re.IGNORECASE)
"""Aliases that MLflow keeps for itself."""


def checked_name(name: str, what: str) -> str:
    """Return a name that folders and the MLflow registry take.

    Raises:
        ValueError: naming ``what`` it was given as.
    """
    if not re.fullmatch(NAME, name):
        raise ValueError(f"{what} {name!r} must be of letters, digits and . _ - and begin with a letter or digit")
    if len(name) > LONGEST:
        raise ValueError(f"{what} {name[:20]!r}... has {len(name)} characters; give it {LONGEST} at most")
    return name


def checked_alias(alias: str, what: str = "alias") -> str:
    """An alias of a registered version, if it may be one.

    Raises:
        ValueError: naming ``what`` it was given as.
    """
    if not re.fullmatch(ALIAS, alias):
        raise ValueError(f"{what} {alias!r} must be of letters, digits and _ - and begin with a letter or digit")
    if RESERVED.fullmatch(alias):
        raise ValueError(f"{what} {alias!r} is one that MLflow keeps for itself")
    return alias
