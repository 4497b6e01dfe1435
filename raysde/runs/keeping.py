"""The checkpoints of a run that are kept, and the one that is registered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from raysde.checkpoints import checkpoint, storage
from raysde.checkpoints.retention import Retention, checkpoint_metrics
from raysde.config.loading import RunConfig
from raysde.training.ranking import Ranking

if TYPE_CHECKING:
    from raysde.runs.run import Run


@dataclass(frozen=True)
class Chosen:
    """The checkpoint of a run that is registered.

    Attributes:
        folder: the checkpoint; a best one from remote storage is in a temporary folder.
        which: best or last.
        ranking: metric that ranks the checkpoints.
        value: that metric at the checkpoint; None if it was not measured there.
    """

    folder: Path
    which: Literal["best", "last"]
    ranking: Ranking
    value: float | None

    @property
    def reason(self) -> str:
        """The choice in words, such as ``best by val/loss, 0.1234``."""
        by = f" by {self.ranking.by}" if self.which == "best" else ""
        return f"{self.which}{by}" + ("" if self.value is None or not by else f", {self.value:.5g}")


def is_ranked(run: Run) -> bool:
    """Return True if checkpoints of the run have metrics."""
    given = run.config.validation
    if run.config.ranks_by_quality:
        return given.quality_every > 0 or run.config.ranks_all
    return bool(len(run.held_out)) and (given.every > 0 or run.config.ranks_all)


def make_retention(run: Run) -> Retention:
    """Return the checkpoints that the recipe keeps."""
    keep = run.config.keep
    best = int(is_ranked(run)) if keep.best is None else keep.best
    return Retention(keep.newest, best, Ranking.of(run.config.flat()), keep.every)


def check_ranked(config: RunConfig, held_out: int) -> None:
    """Check that checkpoints can be ranked if the recipe asks for it.

    Args:
        held_out: number of held-out rows.

    Raises:
        ValueError: if there are none, naming the key.
    """
    if config.ranks_all and not held_out and not config.ranks_by_quality:
        key = "keep.best" if config.keep.best else "publish=best"
        raise ValueError(
            f"{key} needs held-out rows, and the data at {config.data.place} has no validation split"
            "; set validation.rows"
        )


def choose_published(run: Run, last: Path, say: Callable[[str], None]) -> Chosen:
    """Return the checkpoint to register, ``publish`` of the recipe; a best one is verified completely.

    Args:
        last: the run's newest checkpoint.
        say: callback that receives a message for each damaged checkpoint passed over, and if no checkpoint is ranked.

    Raises:
        ValueError: if there are ranked checkpoints and none is whole.
        RuntimeError: if the storage cannot be read.
    """
    config, ranking = run.config, Ranking.of(run.config.flat())
    if config.publish == "best" or (config.publish is None and is_ranked(run) and config.keep.best != 0):
        best = storage.fetch_best_checkpoint(config.storage, config.name, ranking, say)
        if best is not None:
            return Chosen(best, "best", ranking, read_metric(best, ranking))
        say(f"no checkpoint of run {config.name!r} has a finite {ranking.by}, so the last one is taken")
    return Chosen(last, "last", ranking, read_metric(last, ranking))


def read_metric(folder: Path, ranking: Ranking) -> float | None:
    """Return the ranking's metric of a local checkpoint, None if it was not measured at its step."""
    return checkpoint_metrics(checkpoint.read_description(folder)).get(ranking.by)
