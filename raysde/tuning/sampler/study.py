"""One candidate's outcome: an evaluation of the model that it names, by its settings, from the noise of all."""

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
from raysde.evaluation.evaluate import (
    FEATURES,
    LEAST,
    Question,
    choose_conditions,
    choose_network,
    evaluate,
)
from raysde.evaluation.features.networks import FeatureNetwork
from raysde.evaluation.report import parse_figures
from raysde.inference.model import Model
from raysde.io.journal import Journal
from raysde.io.progress import StageProgress
from raysde.tuning.sampler.space import Candidate
from raysde.tuning.sampler.successive_halving import CandidateOutcome

METRICS = (*(name for name in FEATURES if name != "recall"), "accuracy")
"""Figures that can be compared image by image; recall's error is also that of the drawn images' neighbourhoods."""
FEWEST = 4
"""Images of a round, below which no error can be told."""


@dataclass(frozen=True)
class Study:
    """What all candidates have in common.

    Attributes:
        models: checkpoint folders by the average's length, None for the run's own, which every worker reaches.
        data: folder or URI of shards.
        metric: of METRICS.
        features: the network, as of `raysde evaluate`.
        seed, split, reference, allow_few: see :class:`raysde.evaluation.evaluate.Question`.
        batch_size: images drawn at a time.
        cache: folder for statistics of real images and judges, which every worker reaches.
        allow_code: whether checkpoint and features may name code.
        device: where networks run; None for a GPU if there is one.

    Raises:
        ValueError: if the metric is not one of drawn images.
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
        """The evaluation of a candidate; but for its settings it is that of any other.

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

    def rehearse(self, candidate: Candidate, samples: int, told: StageProgress) -> None:
        """Measures a candidate on as few images as can be, instead of ``samples``: what does not fit is found, and what
        all need of the real images is in the cache, before anybody else begins.

        Raises:
            ValueError: if model, data, metric and the number of images do not go together.
        """
        question = self.question(candidate, samples)
        model = open_model(self.models[candidate.average], self.allow_code, self.place)
        choose_conditions(model, Reader(read_manifest(self.data)), question)
        few = max(FEWEST, LEAST.get(self.metric, 1))
        self._evaluate_candidate(candidate, replace(question, samples=few, allow_few=True), told)

    def outcome(self, candidate: Candidate, samples: int, told: StageProgress | None = None) -> CandidateOutcome:
        """On the images 0 to samples - 1.

        Raises:
            ValueError: if model, data and metric do not go together.
        """
        return self._evaluate_candidate(candidate, self.question(candidate, samples), told)

    def _evaluate_candidate(
        self, candidate: Candidate, question: Question, told: StageProgress | None
    ) -> CandidateOutcome:
        model = open_model(self.models[candidate.average], self.allow_code, self.place)
        cache = Path(self.cache)
        answer = evaluate(model, self.data, question, open_features=self.opener(model), cache=cache, told=told)
        (found,), influence = parse_figures(answer.dump(), f"of {candidate}"), answer.figures[0].influence
        assert influence is not None
        # of a model that draws by the candidate's settings as its own
        return CandidateOutcome(candidate, replace(found, overrides=None), influence)

    def opener(self, model: Model) -> Callable[[Reader], FeatureNetwork]:
        """Opens the feature network, once the data is known."""

        def opener(reader: Reader) -> FeatureNetwork:
            return choose_network(reader, model, self.features, Path(self.cache), allow_code=self.allow_code)

        return opener

    @cached_property
    def network(self) -> str:
        """Hash of the network that looks at the images."""
        model = open_model(next(iter(self.models.values())), self.allow_code, self.place)
        features = "judge" if self.metric == "accuracy" else self.features
        reader, cache = Reader(read_manifest(self.data)), Path(self.cache)
        return choose_network(reader, model, features, cache, allow_code=self.allow_code).hash

    def key(self, candidate: Candidate, samples: int) -> str:
        """What tells this measurement from any other: a name for the file that keeps it."""
        folder = Path(self.models[candidate.average])
        weights = checkpoint.read_description(folder).files["ema.safetensors"]
        fingerprint = read_manifest(self.data).fingerprint
        asked: list[Any] = [self.metric, self.network, self.seed, self.split, self.reference, samples]
        words = json.dumps([weights, fingerprint, *asked, candidate.drawing], sort_keys=True)
        return hashlib.sha256(words.encode()).hexdigest()[:16]


def study_journal(out: Path) -> Journal:
    """Return the journal of a study, whose units are measurements by their keys."""
    return Journal(str(out / "study.json"), str(out / "trials"))


@lru_cache(maxsize=1)
def open_model(folder: str, allow_code: bool, device: str) -> Model:
    """This process's model, without settings of its own: a candidate's are all that there are."""
    model = checkpoint.load_model(Path(folder), allow_code=allow_code, device=device)
    return replace(model, spec=replace(model.spec, generation={}))
