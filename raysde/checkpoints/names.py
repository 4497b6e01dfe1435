"""Names of the checkpoints of a run: RUN@best, RUN@last, and RUN@1000 for a step."""

import re
from collections.abc import Callable
from pathlib import Path

import pyarrow.fs as pafs

from raysde.checkpoints.checkpoint import verify_model
from raysde.checkpoints.description import Kept, choose_checkpoint, list_checkpoints
from raysde.checkpoints.retention import rank_checkpoints
from raysde.io.near import did_you_mean
from raysde.training.ranking import Ranking

BEST, LAST = "best", "last"
STEP = re.compile(r"(?:step_)?([0-9]+)")


def split_name(source: str) -> tuple[Path, str | None]:
    """Return the folder and the name of a checkpoint in ``FOLDER@NAME``; the name is None if there is none.

    A folder whose own name contains the sign takes precedence.
    """
    folder = Path(source).expanduser()
    before, sign, name = source.rpartition("@")
    if not sign or folder.is_dir() or not before:
        return folder, None
    return Path(before).expanduser(), name


def find_checkpoint(folder: Path, name: str, say: Callable[[str], None] | None = None) -> Path:
    """Return a checkpoint in a local run folder whose description, averaged weights and text files are intact.

    Args:
        name: ``best`` by the metric of the run's newest recipe, ``last``, or a step: ``1000`` or ``step_000001000``.
        say: callback that receives a message for each damaged checkpoint passed over.

    Raises:
        ValueError: if the run has no such checkpoint, or it is damaged.
    """
    found = list_checkpoints(pafs.LocalFileSystem(), str(folder))
    if not found:
        raise ValueError(f"{folder}@{name}: {folder} is no run's folder with checkpoints; give the folder of a run")
    if name == LAST:
        chosen = _choose(found, folder, say, LAST)
        assert chosen is not None, "a run without a whole checkpoint is refused"
        return chosen
    if name == BEST:
        return _find_best(found, folder, say)
    match = STEP.fullmatch(name)
    if match is None:
        raise ValueError(
            f"{folder}@{name}: a run has the checkpoints best, last and one for each kept step"
            f"{did_you_mean(name, (BEST, LAST))}; name one of them"
        )
    of_step = [each for each in found if each.step == int(match[1])]
    if not of_step:
        steps = ", ".join(str(each.step) for each in reversed(found))
        raise ValueError(f"{folder}@{name}: the run has no checkpoint of step {match[1]}; its steps are {steps}")
    return _check(of_step[0])


def find_ranking(found: list[Kept]) -> Ranking:
    """Return the ranking in the recipe of a run's newest whole checkpoint.

    Args:
        found: checkpoints by descending step.
    """
    recipes = (each.description.recipe for each in found if each.description is not None)
    return Ranking.of(next(recipes, {}))


def _find_best(found: list[Kept], folder: Path, say: Callable[[str], None] | None) -> Path:
    ranking = find_ranking(found)
    chosen = _choose(rank_checkpoints(found, ranking), folder, say, BEST)
    if chosen is None:
        raise ValueError(
            f"{folder}@best: no checkpoint of the run has a value of {ranking.by}; take {folder}@last, or train with "
            "keep.best=1 and validation"
        )
    return chosen


def _choose(found: list[Kept], folder: Path, say: Callable[[str], None] | None, which: str) -> Path | None:
    return choose_checkpoint(found, _check, str(folder), say, which)


def _check(kept: Kept) -> Path:
    """Return the folder of a checkpoint after comparing the files that sampling reads with their hashes.

    Raises:
        ValueError: if one of them is missing or differs.
    """
    if kept.description is None:
        raise ValueError(kept.fault)
    verify_model(Path(kept.path))
    return Path(kept.path)
