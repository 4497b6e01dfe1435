"""Rules for the names of runs and registered models, and for aliases of versions."""

import re

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
STRANGE = re.compile(r"[^A-Za-z0-9._-]+")
LONGEST = 200
"""Largest length of a name; file systems and MLflow's databases allow about 255 characters with suffixes."""
ADDED = len("-000000")
"""Length of the suffix that a sweep adds to its name for a trial, or for the recipe of its best trial."""
LONGEST_ALIAS = 255
ALIAS = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
RESERVED = re.compile(r"latest|v\d+", re.IGNORECASE)
"""Aliases that MLflow reserves."""


def check_name(name: str, what: str) -> str:
    """Return a name that folders, object stores, databases and the MLflow registry accept.

    Raises:
        ValueError: naming the option ``what``, and a similar name that is valid.
    """
    _check_letters(name, what)
    if len(name) > LONGEST:
        raise ValueError(f"{what} {name[:20]!r}... has {len(name)} characters; give it {LONGEST} at most")
    return name


def check_sweep_name(name: str, what: str) -> str:
    """Return a name of a sweep, whose trials and best recipe get this name with a suffix.

    Raises:
        ValueError: as :func:`check_name`, or if the name is too long for the suffix.
    """
    _check_letters(name, what)
    if len(name) > LONGEST - ADDED:
        raise ValueError(
            f"{what} {name[:20]!r}... has {len(name)} characters; give it {LONGEST - ADDED} at most, since trials "
            "add a suffix"
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
    """Return an alias of a registered version.

    Raises:
        ValueError: naming the option ``what``, if the alias is invalid.
    """
    if not re.fullmatch(ALIAS, alias):
        raise ValueError(f"{what} {alias!r} must be of letters, digits and _ - and begin with a letter or digit")
    if RESERVED.fullmatch(alias):
        raise ValueError(f"{what} {alias!r} is reserved by MLflow; choose another")
    if len(alias) > LONGEST_ALIAS:
        raise ValueError(f"{what} {alias[:20]!r}... has {len(alias)} characters; give it {LONGEST_ALIAS} at most")
    return alias
