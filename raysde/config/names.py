"""What things may be called: names of runs and registered models, and aliases of versions."""

import re

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
STRANGE = re.compile(r"[^A-Za-z0-9._-]+")
LONGEST = 200
"""Characters of a name; file systems and MLflow's databases keep about 255, with what is added to it."""
ADDED = len("-000000")
"""Characters of what a sweep adds to its name for a trial, or for the recipe of its best trial."""
LONGEST_ALIAS = 255
ALIAS = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
RESERVED = re.compile(r"latest|v\d+", re.IGNORECASE)
"""Aliases that MLflow keeps for itself."""


def check_name(name: str, what: str) -> str:
    """Return a name that folders, object stores, databases and the MLflow registry take.

    Raises:
        ValueError: naming ``what`` it was given as, with a name near it that they take.
    """
    _check_letters(name, what)
    if len(name) > LONGEST:
        raise ValueError(f"{what} {name[:20]!r}... has {len(name)} characters; give it {LONGEST} at most")
    return name


def check_sweep_name(name: str, what: str) -> str:
    """Return a name of a sweep, which its trials and its best recipe can be called after.

    Raises:
        ValueError: as :func:`check_name`, or if the name is too long for what is added to it.
    """
    _check_letters(name, what)
    if len(name) > LONGEST - ADDED:
        raise ValueError(
            f"{what} {name[:20]!r}... has {len(name)} characters; give it {LONGEST - ADDED} at most, since trials are "
            "called after it"
        )
    return name


def _check_letters(name: str, what: str) -> None:
    near = STRANGE.sub("-", name.strip()).strip("._-")
    advice = f", such as {near!r}" if near else ""
    if not re.fullmatch(NAME, name):
        said = f"{what} {name!r} must be of letters, digits and . _ - and begin with a letter or digit"
        raise ValueError(said + advice)
    if name.endswith("."):
        raise ValueError(f"{what} {name!r} ends with a dot, which some file stores drop; choose another{advice}")


def check_alias(alias: str, what: str = "alias") -> str:
    """An alias of a registered version, if it may be one.

    Raises:
        ValueError: naming ``what`` it was given as.
    """
    if not re.fullmatch(ALIAS, alias):
        raise ValueError(f"{what} {alias!r} must be of letters, digits and _ - and begin with a letter or digit")
    if RESERVED.fullmatch(alias):
        raise ValueError(f"{what} {alias!r} is one that MLflow keeps for itself")
    if len(alias) > LONGEST_ALIAS:
        raise ValueError(f"{what} {alias[:20]!r}... has {len(alias)} characters; give it {LONGEST_ALIAS} at most")
    return alias
