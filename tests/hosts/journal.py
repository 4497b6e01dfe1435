"""The rows that a run trained on, from the journals of its workers."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from raysde.runs.run import Run


def read_journals(paths: Iterable[Path]) -> list[dict]:
    """Return the lines of all journals, in the order of time."""
    lines = [json.loads(line) for path in paths if path.exists() for line in path.read_text().splitlines()]
    return sorted(lines, key=lambda line: line["time"])


def check_rows(lines: list[dict], run: Run) -> int:
    """Check that a run trained on the rows of its plan; return the number of steps that ran more than once.

    A worker group that ended repeats steps after the newest checkpoint; the last group that ran a step counts.

    Raises:
        AssertionError: if a row is missing, repeated or not planned.
    """
    groups: dict[str, dict[int, Counter]] = {}
    for line in lines:  # in the order in which the groups began
        steps = groups.setdefault(line["group"], {})
        steps.setdefault(line["step"], Counter())[tuple(line["rows"])] += 1
    repeated = 0
    for step in range(run.steps):
        planned = Counter(
            tuple(run.feed.rows[run.plan.rows_of(step, index)].tolist()) for index in range(run.plan.microbatches)
        )
        ran = [steps[step] for steps in groups.values() if step in steps]
        assert ran, f"step {step} did not run"
        assert ran[-1] == planned, f"step {step} missed {planned - ran[-1]} and has too much {ran[-1] - planned}"
        assert all(found <= planned for found in ran), f"step {step} has rows that are not planned"
        repeated += len(ran) > 1
    return repeated
