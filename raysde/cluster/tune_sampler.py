"""Candidates measured by Ray Tune: a trial is one of them on the images of one round; finished trials are kept.

OUT/trials/KEY.safetensors   how each image moves a figure, written by who measured it
OUT/trials/KEY.json          the figure: a finished measurement, which the same study finds again after a crash
OUT/tune                     what Ray Tune writes while it works
"""

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.error import TuneError
from ray.tune.experiment import Trial
from tqdm import tqdm

from raysde.cluster.connection import connect, quiet_tune
from raysde.cluster.errors import attempt_work, unpack_error, unpack_result
from raysde.cluster.resources import count_workers
from raysde.evaluation.metric import parse_metric
from raysde.evaluation.metrics.jackknife import Influence
from raysde.io.filesystems import write_json
from raysde.io.journal import read_record
from raysde.tuning.sampler.space import Candidate
from raysde.tuning.sampler.study import Study, study_journal
from raysde.tuning.sampler.successive_halving import CandidateOutcome, MeasureCandidates

FAILURES = 2
"""How often a trial whose worker dies is begun again."""


def measure_on_ray(study: Study, out: Path) -> MeasureCandidates:
    """Who measures the candidates of a study on the cluster that RAY_ADDRESS names, or on this machine.

    Args:
        out: folder of what is finished.
    """

    def measure(candidates: Sequence[Candidate], samples: int) -> list[CandidateOutcome]:
        files = [Path(study_journal(out).place(study.key(each, samples))) for each in candidates]
        todo = [number for number, file in enumerate(files) if not (file.exists() and influence_file(file).exists())]
        with tqdm(total=len(files), initial=len(files) - len(todo), **progress_bar_options(samples)) as shown:
            if todo:
                measure_candidates(study, candidates, samples, files, todo, shown)
        return [read_measurement(each, file) for each, file in zip(candidates, files, strict=True)]

    return measure


def influence_file(file: Path) -> Path:
    """Where the influences of a measurement are."""
    return file.with_suffix(".safetensors")


def read_measurement(candidate: Candidate, file: Path) -> CandidateOutcome:
    """A finished measurement."""
    figure = parse_metric(read_record(str(file))["figure"], f"{file}")
    return CandidateOutcome(candidate, figure, Influence.load(influence_file(file)))


def progress_bar_options(samples: int) -> dict[str, Any]:
    """How progress is shown."""
    return {"unit": "setting", "desc": f"settings on {samples} images each", "file": sys.stderr}


def measure_candidates(
    study: Study, candidates: Sequence[Candidate], samples: int, files: Sequence[Path], todo: Sequence[int], shown: Any
) -> None:
    """Measures the candidates of the numbers ``todo`` and writes their files.

    Raises:
        ValueError: if one cannot be measured.
        OSError: if what one measured cannot be written.
        RuntimeError: if its worker died again and again, or a figure could not be kept.
    """
    connect()
    quiet_tune()
    storage = files[0].parent.parent / "tune"
    shutil.rmtree(storage, ignore_errors=True)
    at_once, share = count_workers(len(todo), ray.cluster_resources())
    tuner = tune.Tuner(
        tune.with_resources(make_trainable(study, candidates, samples, files), {"cpu": share.cpus, "gpu": share.gpus}),
        param_space={"number": tune.grid_search(list(todo))},
        tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=at_once),
        run_config=tune.RunConfig(
            name=f"{samples}",
            storage_path=str(storage.absolute()),
            failure_config=tune.FailureConfig(max_failures=FAILURES),
            callbacks=[Keeper(candidates, samples, files, shown)],
            verbose=0,
        ),
    )
    try:
        results = tuner.fit()
    except TuneError as error:  # of OUT's disk, say: its text is a whole traceback
        last = str(error).strip().split("\n")[-1]
        raise RuntimeError(f"the study was interrupted: {last}; the same command goes on with it") from error
    shutil.rmtree(storage, ignore_errors=True)
    for result in (results[place] for place in range(len(results))):
        if result.error is not None:
            raise RuntimeError(f"a trial failed: {' '.join(str(result.error).split())[:300]}")
        if said := (result.metrics or {}).get("error"):
            raise unpack_error(said)


def make_trainable(
    study: Study, candidates: Sequence[Candidate], samples: int, files: Sequence[Path]
) -> Callable[[dict[str, Any]], None]:
    """What a trial does."""

    def trial(config: dict[str, Any]) -> None:
        def work() -> dict[str, Any]:
            found = study.outcome(candidates[config["number"]], samples)
            found.influence.save(influence_file(files[config["number"]]))
            return found.figure.to_json()

        tune.report(attempt_work(work))

    return trial


class Keeper(tune.Callback):
    """Writes each figure down as it comes, on the driver, so that it outlives it."""

    def __init__(self, candidates: Sequence[Candidate], samples: int, files: Sequence[Path], shown: Any) -> None:
        self.candidates, self.samples, self.files, self.shown = candidates, samples, files, shown

    def __getstate__(self) -> dict[str, Any]:
        """Ray Tune writes its callbacks down, which a progress bar cannot be."""
        return {**vars(self), "shown": None}

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Ray Tune's call when a trial is over."""
        number, result = trial.config["number"], trial.last_result
        if result.get("result"):
            said = {"setting": self.candidates[number].values, "samples": self.samples}
            write_json(str(self.files[number]), {**said, "figure": unpack_result(result)})
            self.shown.update()
