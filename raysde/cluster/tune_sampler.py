"""Candidates of a sampler study measured by Ray Tune: one trial measures one candidate on the images of one round.

OUT/trials/KEY.safetensors   influence of each image on the metric, written by the worker that measured it
OUT/trials/KEY.json          the metric: a finished measurement, which the same study reuses after a crash
OUT/tune                     Ray Tune's files while it runs
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
"""Maximum restarts of a trial whose worker died."""


def measure_on_ray(study: Study, out: Path) -> MeasureCandidates:
    """Return a function that measures candidates of a study on the cluster of RAY_ADDRESS, or on this machine.

    Args:
        out: folder of the finished measurements.

    Raises:
        ValueError, OSError, RuntimeError: by the function, as :func:`measure_candidates`.
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
    """Return the .safetensors file with each image's influence on the metric, for the measurement ``file``."""
    return file.with_suffix(".safetensors")


def read_measurement(candidate: Candidate, file: Path) -> CandidateOutcome:
    """Return a finished measurement from its two files (ValueError if the record is damaged)."""
    figure = parse_metric(read_record(str(file))["figure"], f"{file}")
    return CandidateOutcome(candidate, figure, Influence.load(influence_file(file)))


def progress_bar_options(samples: int) -> dict[str, Any]:
    """Return the options of the progress bar, for ``samples`` images of each candidate."""
    return {"unit": "setting", "desc": f"settings on {samples} images each", "file": sys.stderr}


def measure_candidates(
    study: Study, candidates: Sequence[Candidate], samples: int, files: Sequence[Path], todo: Sequence[int], shown: Any
) -> None:
    """Measure the candidates at the indices ``todo`` on ``samples`` images each, and write their files.

    Raises:
        ValueError: if a candidate cannot be measured.
        OSError: if a worker cannot write its influences.
        RuntimeError: if a worker died more than ``FAILURES`` times, or a metric could not be written.
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
    except TuneError as error:  # for example if OUT's disk is full: the text is a whole traceback
        last = str(error).strip().split("\n")[-1]
        raise RuntimeError(f"the study was interrupted: {last}; the same command resumes it") from error
    shutil.rmtree(storage, ignore_errors=True)
    for result in (results[place] for place in range(len(results))):
        if result.error is not None:
            raise RuntimeError(f"a trial failed: {' '.join(str(result.error).split())[:300]}")
        if said := (result.metrics or {}).get("error"):
            raise unpack_error(said)


def make_trainable(
    study: Study, candidates: Sequence[Candidate], samples: int, files: Sequence[Path]
) -> Callable[[dict[str, Any]], None]:
    """Return the function that Ray Tune runs for each trial, which draws ``samples`` images."""

    def trial(config: dict[str, Any]) -> None:
        def work() -> dict[str, Any]:
            found = study.outcome(candidates[config["number"]], samples)
            found.influence.save(influence_file(files[config["number"]]))
            return found.figure.to_json()

        tune.report(attempt_work(work))

    return trial


class Keeper(tune.Callback):
    """A Ray Tune callback that writes each metric, of ``samples`` images, to disk on the driver once its trial ends."""

    def __init__(self, candidates: Sequence[Candidate], samples: int, files: Sequence[Path], shown: Any) -> None:
        self.candidates, self.samples, self.files, self.shown = candidates, samples, files, shown

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the progress bar, since Ray Tune pickles its callbacks."""
        return {**vars(self), "shown": None}

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Write the metric of a finished trial.

        Raises:
            ValueError, OSError: if the trial's work raised it, or the file cannot be written.
        """
        number, result = trial.config["number"], trial.last_result
        if result.get("result"):
            said = {"setting": self.candidates[number].values, "samples": self.samples}
            write_json(str(self.files[number]), {**said, "figure": unpack_result(result)})
            self.shown.update()
