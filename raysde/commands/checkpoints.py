"""The list of a run's checkpoints, which `raysde inspect` prints."""

from pathlib import Path

import pyarrow.fs as pafs

from raysde.checkpoints.checkpoint import read_description
from raysde.checkpoints.description import STEP, Kept, list_checkpoints
from raysde.checkpoints.names import find_checkpoint, find_ranking
from raysde.checkpoints.retention import checkpoint_metrics, rank_checkpoints
from raysde.commands.registry import align_columns
from raysde.io.progress import say
from raysde.training.ranking import Ranking


def is_run(folder: Path) -> bool:
    """Return True if a local folder holds checkpoints and is no data set."""
    if not folder.is_dir() or (folder / "manifest.json").exists():
        return False
    return any(STEP.fullmatch(path.name) for path in folder.iterdir())


def format_checkpoints(folder: Path, name: str | None) -> str:
    """Return the checkpoints of a run as a table, or one checkpoint with all metrics of its step.

    Args:
        name: name of a checkpoint, see :func:`raysde.checkpoints.names.find_checkpoint`; None for all.

    Raises:
        ValueError: if the run has no such checkpoint, or it is damaged.
    """
    if name is not None:
        found = find_checkpoint(folder, name, say)
        description = read_description(found)
        values = {
            "checkpoint": str(found),
            "step": str(description.step),
            "images": str(description.state.get("num_images", "-")),
        }
        values |= {key: str(value) for key, value in checkpoint_metrics(description).items()}
        return align_columns(list(values.items()))
    kept = list_checkpoints(pafs.LocalFileSystem(), str(folder))
    ranking = find_ranking(kept)
    ranks = {each.path: rank for rank, each in enumerate(rank_checkpoints(kept, ranking), 1)}
    rows = [_format_row(each, ranks.get(each.path), ranking) for each in kept]
    return align_columns([("step", ranking.by, "rank", "checkpoint"), *rows])


def _format_row(each: Kept, rank: int | None, ranking: Ranking) -> tuple[str, ...]:
    if each.description is None:
        return (str(each.step), "", "", f"{each.name}, damaged: {each.fault}")
    value = checkpoint_metrics(each.description).get(ranking.by)
    return (str(each.step), "" if value is None else f"{value:.5f}", str(rank or ""), each.name)
