"""Recipes, sweeps and lists of class names that are part of raysde, found by name."""

import os
from pathlib import Path

from raysde.io.near import did_you_mean
from raysde.io.progress import say

FOLDER = Path(__file__).parents[1] / "recipes"
KINDS = {"recipe": "*.yaml", "sweep": "sweeps/*.yaml", "list of class names": "*.txt"}
"""Pattern of the files of each kind, below :data:`FOLDER`."""
FORMER_FOLDERS = {"jobs/configs": "recipes", "jobs/sweeps": "sweeps"}
"""Folders of a clone that held the files before they became part of the package, and their folders today."""


def list_builtin(kind: str) -> dict[str, Path]:
    """Return the built-in files of a kind of :data:`KINDS` by name, in alphabetical order."""
    return {path.stem: path for path in sorted(FOLDER.glob(KINDS[kind]))}


def find_builtin(kind: str, name: str) -> Path:
    """Return the built-in file of a name.

    Raises:
        ValueError: if there is none.
    """
    known = list_builtin(kind)
    if name not in known:
        raise ValueError(f"{kind} {name} is not built in; {suggest_builtin(kind, name)}")
    return known[name]


def suggest_builtin(kind: str, given: str | Path) -> str:
    """Return the part of a sentence that lists the built-in files of a kind, the nearest to ``given`` at its end."""
    known = list_builtin(kind)
    return f"built-in names: {', '.join(known)}{did_you_mean(Path(given).stem, known)}"


def resolve_builtin(kind: str, given: str | Path) -> str | Path:
    """Return the built-in file that a name or a former path stands for; any other path or URI as it is.

    A file of the user's with that name or path takes precedence. A former path, such as ``jobs/configs/digits.yaml``,
    is answered with a warning that names the built-in file.
    """
    path, known = Path(os.path.expanduser(given)), list_builtin(kind)
    # Path.exists() raises an error for a name that is too long or a folder without permission
    if os.path.exists(path) and not os.path.isdir(path):
        return given
    if str(given) in known:
        return known[str(given)]
    found = known.get(path.stem)
    folder = FORMER_FOLDERS.get("/".join(path.parts[-3:-1]))
    if found is None or (folder, path.name) != (found.parent.name, found.name):
        return given
    say(f"{given}: this {kind} is built in now; write {path.stem} in its place (`raysde recipes` lists all names)")
    return found
