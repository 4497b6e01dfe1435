"""A search for the sampler settings of a trained model, from its folder to a model with the best settings."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raysde.checkpoints import checkpoint, ema_snapshots
from raysde.evaluation.metric import choose_direction
from raysde.io.atomic import write_atomically
from raysde.models.spec import ModelSpec, check_code
from raysde.tuning.sampler.space import Candidate, default_space, list_candidates, parse_space
from raysde.tuning.sampler.study import Study, study_journal
from raysde.tuning.sampler.successive_halving import MeasureCandidates, Settled, halve_successively, round_sizes


@dataclass(frozen=True)
class SamplerSearch:
    """A prepared search, before any measurement.

    Attributes:
        spec: description of the model.
        out: folder of the search; gets ``model``, the model with the best settings, and the table ``settings.csv``.
        study: settings common to all candidates.
        candidates: averages and settings to try.
        images: number of images in each round, ascending.
    """

    spec: ModelSpec
    out: Path
    study: Study
    candidates: list[Candidate]
    images: list[int]

    def run(self, measure: MeasureCandidates) -> tuple[Settled, dict[str, Any]]:
        """Measure round by round, and write the table and the model with the winner's settings.

        Args:
            measure: function that returns the outcome of each candidate on the first images, such as
                :func:`raysde.cluster.tune_sampler.measure_on_ray`.

        Returns:
            All outcomes, and the model's new settings.

        Raises:
            ValueError: if a candidate cannot be measured.
        """
        found = halve_successively(self.candidates, self.images, choose_direction(self.study.metric), measure)
        won = found.winner.candidate
        drawing = winning_settings(won, self.spec)
        write_table(self.out / "settings.csv", found)
        checkpoint.export_with_settings(
            Path(self.study.models[won.average]), self.out / "model", drawing
        )  # written last: its presence marks the search as complete
        return found, drawing


def prepare_search(
    source: Path, out: Path, settings: Sequence[str], study: Study, *, run: str, samples: int, count: int
) -> SamplerSearch:
    """Prepare a search: list the candidates, and write in ``out`` each model that they need.

    Args:
        source: folder of the model's checkpoint.
        settings: ``key=v1,v2`` to try; :func:`default_space` if empty.
        study: settings common to all candidates, without models.
        run: folder of the run whose averages give models of other ``ema_std``.
        samples: number of images in the last round.
        count: number of rounds of successive halving.

    Raises:
        ValueError: if ``out`` holds a result or the search of another model, a setting cannot be read or has no effect,
            the images are too few, or an average cannot be made.
    """
    wanted, images = parse_space(settings), round_sizes(samples, count)
    if (out / "model").exists():
        raise ValueError(
            f"{out / 'model'} exists already: register it with raysde register {out / 'model'} --name NAME, or give "
            "another --out"
        )
    spec = checkpoint.verify_checkpoint(source).spec
    check_code(spec, allow_code=study.allow_code)
    wanted = wanted or default_space(conditional=spec.conditional)
    tried = list_candidates(
        wanted, spec.generation, spec.process, conditional=spec.conditional, usual=spec.default_solver
    )
    claim_folder(source, out)
    averages = list(dict.fromkeys(each.average for each in tried))
    study = replace(study, models={average: make_averaged_model(source, out, average, run) for average in averages})
    for each in tried:
        study.question(each, images[0])
    return SamplerSearch(spec, out, study, tried, images)


def winning_settings(won: Candidate, spec: ModelSpec) -> dict[str, Any]:
    """Return a winner's settings with the guidance that it was measured at, which need not be the default."""
    return won.drawing | ({"guidance": won.drawing.get("guidance", 1.0)} if spec.conditional else {})


def make_averaged_model(source: Path, out: Path, average: float | None, run: str) -> str:
    """Return the folder in ``out`` of the model with this average, and write it if it is missing.

    Raises:
        ValueError: if the average cannot be made.
    """
    target = out / "models" / ("own" if average is None else f"ema-{average:g}")
    if target.exists():
        return str(target)
    if average is None:
        checkpoint.export_checkpoint(source, target)
    elif Path(run).expanduser().is_dir():
        ema_snapshots.export_average(run, target, average)
    else:
        raise ValueError(f"ema_std needs the folder of a run, which holds its averages; {run!r} is no folder")
    return str(target)


def claim_folder(source: Path, out: Path) -> None:
    """Record in ``out`` that it belongs to the model at ``source``, or check the existing record.

    Raises:
        ValueError: if it belongs to another model.
    """
    description = checkpoint.read_description(source)
    own = {"weights": description.files["ema.safetensors"], "generation": description.spec.dump()["generation"]}
    refused = f"{out} holds the study of another model: give another --out"
    study_journal(out).begin(own, lambda found, wanted: None if found == wanted else refused)


def write_table(path: Path, found: Settled) -> None:
    """Write all settings with their metrics as CSV, the best first.

    Raises:
        OSError: naming ``path``, if it cannot be written.
    """
    keys = list(dict.fromkeys(key for each in found.outcomes for key in each.candidate.values))
    with write_atomically(path, "the table") as partial, partial.open("w", newline="") as file:
        table = csv.writer(file)
        figures = ["metric", "value", "low", "high", "samples", "behind", "behind_low", "behind_high"]
        table.writerow(["place", *keys, "evaluations", *figures, "won"])
        for place, each in enumerate(found.outcomes, start=1):
            values = [each.candidate.values.get(key, "") for key in keys]
            figure, won = each.figure, each is found.winner
            behind = found.behind(each)
            numbers = [figure.name, figure.value, figure.low, figure.high, figure.samples]
            numbers += [behind.value, behind.low, behind.high] if behind else ["", "", ""]
            table.writerow([place, *values, each.candidate.evaluations, *numbers, "yes" if won else ""])
