"""Test if the error that ranks the trials of a sweep agrees with the quality of their samples.

    raysde tune digits --sweep digits keep_checkpoints=9
    python benchmarks/neutral_error.py ~/raysde/runs/digits-sweep ~/raysde/digits

Samples from every checkpoint of every trial. A classifier of real images measures prompt accuracy, and KID in its
features. For each step that at least four trials reached, the script prints Spearman's correlation (with Fisher's
interval) of the neutral error at that step with both metrics, and the metrics of the trials ranked first.
"""

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import spearmanr

from raysde.checkpoints import checkpoint
from raysde.evaluation.evaluate import choose_network, evaluate
from raysde.evaluation.question import Question
from raysde.tuning.training.sweep import DEFAULT_METRIC

FEWEST = 4


@dataclass(frozen=True)
class Row:
    """A checkpoint of a trial with the metrics of its samples."""

    trial: int
    step: int
    error: float
    accuracy: float
    kid: float


def checkpoints(folder: Path) -> Iterator[tuple[dict, int, float, Path]]:
    """Yield trial, step, neutral error at that step, and checkpoint folder."""
    for file in sorted((folder / "ledger").glob("trial-*.json")):
        trial = json.loads(file.read_text())
        errors = {report["step"]: report["metrics"].get(DEFAULT_METRIC) for report in trial["reports"]}
        for step, error in errors.items():
            place = folder / f"{folder.name}-{trial['number']:03d}" / checkpoint.checkpoint_name(step)
            if error is not None and place.exists() and checkpoint.is_complete_checkpoint(place):
                yield trial, step, error, place


def measured(place: Path, data: str, question: Question, cache: Path) -> tuple[float, float]:
    """Return accuracy and KID of a checkpoint's samples."""
    model = checkpoint.load_model(place)
    answer = evaluate(
        model,
        data,
        question,
        open_features=lambda reader: choose_network(reader, model, "judge", cache, allow_code=False),
        cache=cache,
    )
    found = {figure.name: figure.value for figure in answer.figures}
    return found["accuracy"], found["kid"]


def correlation(first: list[float], second: list[float]) -> str:
    """Return Spearman's correlation with Fisher's 95% interval; the variance for ranks is 1.06 / (n - 3) (Fieller et
    al. 1957)."""
    value = float(spearmanr(first, second).statistic)
    if len(first) <= 3 or abs(value) > 1 - 1e-9:
        return f"{value:+.3f}"
    half = 1.96 * math.sqrt(1.06 / (len(first) - 3))
    return f"{value:+.3f} [{math.tanh(math.atanh(value) - half):+.3f}, {math.tanh(math.atanh(value) + half):+.3f}]"


def summary(rows: list[Row]) -> None:
    """Print for each step the correlations, and the metrics of the three trials ranked first beside the best."""
    for step in sorted({row.step for row in rows}):
        here = sorted((row for row in rows if row.step == step), key=lambda row: row.error)
        if len(here) < FEWEST:
            continue
        errors = [row.error for row in here]
        print(f"\nstep {step}, {len(here)} trials: Spearman's correlation of the neutral error")
        print("  with 1 - accuracy", correlation(errors, [1.0 - row.accuracy for row in here]))
        print("  with KID         ", correlation(errors, [row.kid for row in here]))
        first = ", ".join(f"{row.trial:03d} ({row.accuracy:.3f}, {row.kid:.4f})" for row in here[:3])
        print(f"  ranked first: {first}")
        print(f"  best there is: accuracy {max(row.accuracy for row in here):.3f}, KID {min(r.kid for r in here):.4f}")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("sweep", type=Path, help="folder of the sweep")
    arguments.add_argument("data", help="data set of the sweep")
    arguments.add_argument("--samples", type=int, default=1000)
    arguments.add_argument("--cache", type=Path, default=Path("~/.cache/raysde").expanduser())
    given = arguments.parse_args()
    settings = {"solver": "unipc", "steps": 12, "guidance": 2.0, "batch_size": 250}
    question = Question(("accuracy", "kid"), given.samples, seed=1, settings=settings)
    rows = []
    print("| trial | step | neutral error | accuracy | KID |\n|---|---|---|---|---|")
    for trial, step, error, place in checkpoints(given.sweep):
        row = Row(trial["number"], step, error, *measured(place, given.data, question, given.cache))
        print(f"| {row.trial:03d} | {step} | {error:.5f} | {row.accuracy:.3f} | {row.kid:.5f} |", flush=True)
        rows.append(row)
    summary(rows)


if __name__ == "__main__":
    main()
