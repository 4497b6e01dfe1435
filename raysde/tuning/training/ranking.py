"""Results of a sweep: the ranked trials as a table and as CSV, and the best one as a recipe."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from raysde.config import loading
from raysde.config.places import resolve_places_in_tree
from raysde.tuning.training.direction import rank_by
from raysde.tuning.training.ledger import Trial
from raysde.tuning.training.space import Space, describe_values, format_value, vary_recipe

ORDER = {"finished": 0, "stopped": 1, "running": 2, "failed": 3}


def rank_trials(trials: Sequence[Trial], metric: str) -> list[Trial]:
    """Sort trials: finished ones by their last value, then stopped ones, longest first, then running and failed ones.

    Lower values are better, or higher ones of metrics such as val/accuracy. Values at other budgets cannot be compared,
    so a stopped trial never ranks above a finished one.
    """

    ranking = rank_by(metric)

    def key(trial: Trial) -> tuple[float, ...]:
        known = ranking.cost({metric: trial.value(metric)})
        seen = 0 if trial.state == "finished" or trial.last is None else trial.last.images
        return (ORDER[trial.state], -seen, known, trial.number)

    return sorted(trials, key=key)


def ranking_rows(trials: Sequence[Trial], space: Space, metric: str) -> list[dict[str, str]]:
    """Return the ranking as rows of a table, by column name."""
    found = []
    for rank, trial in enumerate(rank_trials(trials, metric), 1):
        value, last = trial.value(metric), trial.last
        found.append(
            {
                "rank": str(rank) if value is not None and trial.state != "failed" else "-",
                "trial": f"{trial.number:03d}",
                **{axis.name: format_value(trial.values[axis.name]) for axis in space.axes},
                metric: "-" if value is None else f"{value:.5f}",
                "step": "0" if last is None else str(last.step),
                "images": "0" if last is None else str(last.images),
                "state": trial.state,
                "seconds": f"{trial.seconds:.0f}",
            }
        )
    return found


def format_ranking(trials: Sequence[Trial], space: Space, metric: str) -> str:
    """Format the ranking for a terminal, followed by the errors of failed trials."""
    content = ranking_rows(trials, space, metric)
    names = list(content[0]) if content else []
    widths = [max(len(name), *(len(row[name]) for row in content)) for name in names]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        for cells in [names, *([row[name] for name in names] for row in content)]
    ]
    failed = [trial for trial in trials if trial.state == "failed"]
    return "\n".join([*lines, *(f"trial {trial.number:03d} failed: {trial.error}" for trial in failed)])


def format_csv(trials: Sequence[Trial], space: Space, metric: str) -> str:
    """Return the ranking as CSV with all metrics of each trial's last validation, in full precision."""
    names = sorted({name for trial in trials if trial.last for name in trial.last.metrics} | {metric})
    out = io.StringIO()
    head = ["rank", "trial", "state", *(axis.name for axis in space.axes), *names]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*head, "step", "images", "seconds", "run_id", "error"])
    for row, trial in zip(ranking_rows(trials, space, metric), rank_trials(trials, metric), strict=True):
        values = [_plain_value(trial.values[axis.name]) for axis in space.axes]
        metrics = [repr(trial.value(name)) if trial.value(name) is not None else "" for name in names]
        ended = [row["step"], row["images"], trial.seconds, trial.run_id, trial.error]
        writer.writerow([row["rank"], trial.number, trial.state, *values, *metrics, *ended])
    return out.getvalue()


def _plain_value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def best_trial(trials: Sequence[Trial], metric: str) -> Trial | None:
    """Return the first trial of the ranking that has a finite value, or None."""
    known = (
        trial for trial in rank_trials(trials, metric) if trial.state != "failed" and has_finite_value(trial, metric)
    )
    return next(known, None)


def has_finite_value(trial: Trial, metric: str) -> bool:
    """Return True if the newest value of a metric is a finite number."""
    value = trial.value(metric)
    return value is not None and math.isfinite(value)


def best_recipe(tree: Mapping[str, Any], space: Space, trial: Trial, name: str, metric: str) -> str:
    """Return the recipe of a trial as YAML for `raysde train`, with ``name`` as its name and with absolute paths."""
    changed = {**vary_recipe(tree, space, trial.values), "name": name}
    changed = resolve_places_in_tree({**changed, "storage": loading.parse_recipe(changed).storage})
    head = (
        f"# The best of a sweep: trial {trial.number}, {describe_values(trial.values)}; {metric} {trial.value(metric)}"
    )
    return f"{head}\n{loading.dump_yaml(changed)}"
