"""Quality of drawn images while a run trains: the metrics of `raysde evaluate`, with the averaged weights.

A measurement is an evaluation of the model of that step, by the same function and from the same random streams, so
`raysde evaluate` gives the same metrics for the step's checkpoint.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raysde.config.loading import RunConfig
from raysde.distributed.fsdp import autocast_evaluation, has_shards
from raysde.distributed.world import World
from raysde.evaluation import pretrained
from raysde.evaluation.chunks import MeasuredRange
from raysde.evaluation.evaluate import choose_network, evaluate
from raysde.evaluation.features.networks import FeatureNetwork
from raysde.evaluation.held_out import check_image_condition
from raysde.evaluation.metric import Metric
from raysde.evaluation.question import Question
from raysde.evaluation.real_data import RealReader
from raysde.evaluation.shared import share_among_ranks, share_cache
from raysde.evaluation.workload import REAL, Bench, Measure, measure_here
from raysde.inference.model import Model
from raysde.io.cache import EVALUATION
from raysde.io.progress import Progress
from raysde.models.score import ScoreModel
from raysde.training.measuring import Validate

if TYPE_CHECKING:
    from raysde.runs.run import Run
    from raysde.runs.sources import RunSources

PREFIX = "val/"
"""Prefix of the names under which a run logs its metrics."""


KEYS = {
    "add --allow-few": "set validation.allow_few=true",
    "by --features": "by validation.features",
    "choose other --features": "choose other validation.features",
    "of --metrics": "of validation.metrics",
    ", or, with --allow-code, a TorchScript file or module:name": "",
}
"""Options of `raysde evaluate` in its messages, and the words for them in those of a run."""


class DrawingReached(Exception):  # a signal, no error
    """An evaluation has everything that it needs before images are drawn."""


def make_question(config: RunConfig) -> Question:
    """Return the evaluation that the recipe asks for.

    Raises:
        ValueError: naming the key that is wrong.
    """
    given = config.validation
    for name in given.metrics:
        if name in pretrained.METRICS:
            option = pretrained.METRICS[name]
            raise ValueError(
                f"validation.metrics: {name} needs weights that training does not load; leave {name} out, and measure "
                f"checkpoints by `raysde evaluate --metrics {name} --{option} FOLDER`"
            )
    try:
        return Question(
            metrics=given.metrics,
            samples=given.samples,
            seed=given.seed,
            reference=given.reference,
            allow_few=given.allow_few,
            settings={"batch_size": given.batch, **given.sampler},
        )
    except ValueError as error:
        raise ValueError(f"validation.metrics: {name_keys(str(error))}") from None


def name_keys(message: str) -> str:
    """Return a message of an evaluation with keys of the recipe in place of options."""
    for option, key in KEYS.items():
        message = message.replace(option, key)
    return message


def check_quality(config: RunConfig, sources: RunSources) -> None:
    """Check before a worker starts that the recipe's metrics can be measured on its data sets.

    Raises:
        ValueError: naming the key that does not fit.
    """
    if not config.validation.metrics:
        return
    question = make_question(config)
    try:
        check_image_condition(config.image_condition, question.metrics)
    except ValueError as error:
        raise ValueError(f"validation.metrics: {error}") from None
    judged = "accuracy" in question.metrics or (question.compares and config.validation.features == "judge")
    unlabelled = [each.manifest.path for each in sources.sources if not each.manifest.classes]
    if judged and (unlabelled or sources.manifest.classes < 2):
        place = (unlabelled or [sources.manifest.path])[0]
        raise ValueError(
            f"validation.metrics: accuracy and validation.features=judge need labels, and the data at "
            f"{place} has none; leave accuracy out, and set validation.features to inception"
        )
    if "accuracy" in question.metrics and not config.class_conditional and config.text is None:
        raise ValueError(
            "validation.metrics: accuracy needs a model with labels or captions; set class_conditional or text, or "
            "leave accuracy out"
        )


def make_quality(run: Run, model: ScoreModel, world: World) -> Validate | None:
    """Return a function that measures the recipe's metrics of a model, None without metrics; every rank calls both.

    The judge and the statistics of the real images are made here, before the first step, or taken from the cache that
    `raysde evaluate` uses. Ranks share the images in ranges; a sharded model draws all of them on all ranks in step.

    Args:
        model: the run's model, or another one of its architecture.

    Raises:
        ValueError: if model, data and metrics do not fit together.
    """
    from raysde.runs.build import gathered_dtype  # imports the run, whose checks are here

    config = run.config
    if not config.validation.metrics:
        return None
    if world.is_first:
        prepare_quality(run, Model(model, run.spec))
    share_cache(cache_folder(), run.sources.real_reader.manifest.fingerprint, world)
    how = measure_here if has_shards(model) else share_among_ranks(world)

    def measure_quality(model: ScoreModel) -> dict[str, float]:
        with autocast_evaluation(model, gathered_dtype(run, world.device)):
            found = name_metrics(measure_model(run, Model(model, run.spec), how))
        return dict(json.loads(world.share_text(json.dumps(found))))

    return measure_quality


def cache_folder() -> Path:
    """Return the folder of judges and statistics of real images, which `raysde evaluate` uses too."""
    return Path(EVALUATION).expanduser()


def measure_model(run: Run, model: Model, how: Measure) -> list[Metric]:
    """Return the recipe's metrics of a model.

    Raises:
        ValueError: if model, data and metrics do not fit together.
    """
    cache, features = cache_folder(), run.config.validation.features

    def open_features(reader: RealReader) -> FeatureNetwork:
        return choose_network(reader, model, features, cache, allow_code=False)

    question, reader = make_question(run.config), run.sources.real_reader
    return evaluate(model, reader, question, open_features=open_features, cache=cache, measure=how).figures


def prepare_quality(run: Run, model: Model) -> None:
    """Make the judge and the statistics of real images, unless they are in the cache.

    Raises:
        ValueError: if model, data and metrics do not fit together.
    """
    try:
        measure_model(run, model, stop_at_drawing)
    except DrawingReached:
        pass
    except ValueError as error:
        raise ValueError(name_keys(str(error))) from error


def stop_at_drawing(
    bench: Bench, work: str, stretches: Sequence[tuple[int, int]], progress: Progress | None = None
) -> Iterator[MeasuredRange]:
    """Measure real images, and raise :class:`DrawingReached` in place of the first drawn one; a ``Measure``."""
    if work != REAL:
        raise DrawingReached
    yield from measure_here(bench, work, stretches, progress)


def name_metrics(found: Sequence[Metric]) -> dict[str, float]:
    """Return metrics and the ends of their confidence intervals under the names by which a run logs them."""
    named: dict[str, float] = {}
    for each in found:
        name = f"{PREFIX}{each.name}"
        named |= {name: each.value, f"{name}/low": each.low, f"{name}/high": each.high}
    return {name: value for name, value in named.items() if math.isfinite(value) or name.count("/") == 1}
