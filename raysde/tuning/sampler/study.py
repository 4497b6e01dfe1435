"""The measurement of one candidate: an evaluation of its model with its settings, from the noise that all share."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch

from raysde.checkpoints import checkpoint
from raysde.data.dataset.manifest import Split, read_manifest
from raysde.data.dataset.reader import Reader
from raysde.evaluation.evaluate import choose_conditions, choose_network, evaluate
from raysde.evaluation.features.networks import FeatureNetwork
from raysde.evaluation.question import FEATURES, LEAST, Question
from raysde.evaluation.real_data import RealReader
from raysde.evaluation.report import parse_figures
from raysde.inference.model import Model
from raysde.io.journal import Journal
from raysde.io.progress import StageProgress
from raysde.tuning.sampler.space import Candidate
from raysde.tuning.sampler.successive_halving import CandidateOutcome

METRICS = (*(name for name in FEATURES if name != "recall"), "accuracy")
"""Metrics that can be compared image by image; recall's error also depends on the neighbourhoods of drawn images."""
FEWEST = 4
"""Smallest number of images in a round for which an error can be computed."""


@dataclass(frozen=True)
class Study:
    """Settings common to all candidates.

    Attributes:
        models: checkpoint folders by the average, None for the run's own; every worker must reach them.
        data: folder or URI of shards.
        metric: name from METRICS.
        features: feature network, as for `raysde evaluate`.
        seed, split, reference, allow_few: see :class:`raysde.evaluation.question.Question`.
        batch_size: number of images drawn at a time.
        cache: folder of real images' statistics and of judges; every worker must reach it.
        allow_code: True if checkpoint and features may name code.
        device: device of the networks; None for a GPU if there is one.

    Raises:
        ValueError: if the metric is not in METRICS.
    """

    models: Mapping[float | None, str]
    data: str
    metric: str
    features: str
    cache: str
    seed: int = 0
    split: Split = "train"
    reference: int | None = None
    allow_few: bool = False
    batch_size: int = 256
    allow_code: bool = False
    device: str | None = None

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(f"--metric must be one of {', '.join(METRICS)}, got {self.metric!r}")

    @property
    def place(self) -> str:
        """The device of this process's networks."""
        return self.device or ("cuda" if torch.cuda.is_available() else "cpu")

    def question(self, candidate: Candidate, samples: int) -> Question:
        """Return the evaluation of a candidate on ``samples`` images; candidates differ in sampler settings alone.

        Raises:
            ValueError: if the images are too few for the metric.
        """
        if samples < FEWEST:
            raise ValueError(f"{samples} drawn images are too few for a round: raise --samples or lower --rounds")
        settings = {"guidance": 1.0, **candidate.drawing, "batch_size": self.batch_size}
        return Question(
            metrics=(self.metric,),
            samples=samples,
            seed=self.seed,
            split=self.split,
            reference=self.reference,
            allow_few=self.allow_few,
            settings=settings,
        )

    def rehearse(self, candidate: Candidate, samples: int, progress: StageProgress) -> None:
        """Measure a candidate on few images instead of ``samples``, to find errors and to fill the cache of real images
        before the workers begin.

        Raises:
            ValueError: if model, data, metric and the number of images do not fit together.
        """
        question = self.question(candidate, samples)
        model = open_model(self.models[candidate.average], self.allow_code, self.place)
        choose_conditions(model, Reader(read_manifest(self.data)), question)
        few = max(FEWEST, LEAST.get(self.metric, 1))
        self._evaluate_candidate(candidate, replace(question, samples=few, allow_few=True), progress)

    def outcome(self, candidate: Candidate, samples: int, progress: StageProgress | None = None) -> CandidateOutcome:
        """Measure a candidate on the images 0 to samples - 1.

        Raises:
            ValueError: if model, data and metric do not fit together.
        """
        return self._evaluate_candidate(candidate, self.question(candidate, samples), progress)

    def _evaluate_candidate(
        self, candidate: Candidate, question: Question, progress: StageProgress | None
    ) -> CandidateOutcome:
        model = open_model(self.models[candidate.average], self.allow_code, self.place)
        cache = Path(self.cache)
        answer = evaluate(model, self.data, question, open_features=self.opener(model), cache=cache, progress=progress)
        (found,), influence = parse_figures(answer.dump(), f"of {candidate}"), answer.figures[0].influence
        assert influence is not None
        # None, because the candidate's settings become the model's own
        return CandidateOutcome(candidate, replace(found, overrides=None), influence)

    def opener(self, model: Model) -> Callable[[RealReader], FeatureNetwork]:
        """Return a function that opens the feature network for a reader."""

        def opener(reader: RealReader) -> FeatureNetwork:
            return choose_network(reader, model, self.features, Path(self.cache), allow_code=self.allow_code)

        return opener

    @cached_property
    def network(self) -> str:
        """The hash of the feature network, or of the judge for accuracy."""
        model = open_model(next(iter(self.models.values())), self.allow_code, self.place)
        features = "judge" if self.metric == "accuracy" else self.features
        reader, cache = Reader(read_manifest(self.data)), Path(self.cache)
        return choose_network(reader, model, features, cache, allow_code=self.allow_code).hash

    def key(self, candidate: Candidate, samples: int) -> str:
        """Return a hash of everything that a measurement on ``samples`` images depends on, which names its file."""
        folder = Path(self.models[candidate.average])
        weights = checkpoint.read_description(folder).files["ema.safetensors"]
        fingerprint = read_manifest(self.data).fingerprint
        asked: list[Any] = [self.metric, self.network, self.seed, self.split, self.reference, samples]
        words = json.dumps([weights, fingerprint, *asked, candidate.drawing], sort_keys=True)
        return hashlib.sha256(words.encode()).hexdigest()[:16]


def study_journal(out: Path) -> Journal:
    """Return the journal of a study; its records are measurements by their keys."""
    return Journal(str(out / "study.json"), str(out / "trials"))


@lru_cache(maxsize=1)
def open_model(folder: str, allow_code: bool, device: str) -> Model:
    """Load the model of a folder in this process, without its own sampler settings, which the candidate's replace."""
    model = checkpoint.load_model(Path(folder), allow_code=allow_code, device=device)
    return replace(model, spec=replace(model.spec, generation={}))
