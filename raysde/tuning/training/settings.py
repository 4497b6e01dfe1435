"""Settings of a sweep from a YAML file and the command line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from raysde.config import loading
from raysde.io.invalid import first_mistake
from raysde.io.near import did_you_mean
from raysde.tuning.training.asha import Halving
from raysde.tuning.training.search import Search
from raysde.tuning.training.sweep import DEFAULT_METRIC

AtLeastOne = Annotated[int, Field(ge=1)]
SCHEDULERS = ("asha", "fifo")
NO_CHECKPOINTS = "it pauses trials and copies their checkpoints, which Ray Train's trials do not support"
REFUSED = {
    "pbt": NO_CHECKPOINTS,
    "pb2": NO_CHECKPOINTS,
    "bohb": "it pauses trials, which Ray Train's do not support, and needs the hpbandster package",
    "hyperband": "it pauses trials, which Ray Train's do not support",
}
"""Schedulers of Ray Tune that do not work here, and the reason."""


class SweepSettings(BaseModel):
    """Settings of a sweep; the keys of its YAML file have the same names.

    Attributes:
        trials, concurrent: number of trials, and of trials at a time; None for the default.
        seed: seed of the search, in [0, 2^32).
        reduction: ASHA's reduction factor, above 1: about one trial in ``reduction`` passes each rung.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    space: dict[str, Any] = Field(
        {}, description="axes: names of keys to lists or ranges, see raysde.tuning.training.space"
    )
    recipe: dict[str, Any] = Field({}, description="dotted keys of the recipe set for all trials, such as its length")
    search: Search = "random"
    trials: AtLeastOne | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    scheduler: str = "asha"
    grace: AtLeastOne | None = Field(None, description="steps before a trial may stop; null: to its first validation")
    reduction: Annotated[float, Field(gt=1.0)] = 4.0
    metric: str = DEFAULT_METRIC
    concurrent: AtLeastOne | None = None

    @field_validator("scheduler")
    @classmethod
    def _scheduler(cls, name: str) -> str:
        if name.lower() in REFUSED:
            raise ValueError(f"scheduler {name} is refused: {REFUSED[name.lower()]}; take asha or fifo")
        if name not in SCHEDULERS:
            raise ValueError(f"scheduler must be one of {', '.join(SCHEDULERS)}, got {name!r}")
        return name


def read_settings(path: str | Path | None, over: Sequence[str], given: Mapping[str, Any]) -> SweepSettings:
    """Read the settings of a sweep.

    Args:
        path: YAML file, or None.
        over: further axes as ``key=space``, which replace the file's.
        given: settings of the command line, which replace the file's; None for settings that were not given.

    Raises:
        ValueError: naming the setting that is wrong.
    """
    content = {} if path is None else loading.read_mapping(path, "sweep")
    space = content.get("space") or {}
    if not isinstance(space, Mapping):
        raise ValueError(f"sweep setting space: must be keys of the recipe with their values, got {space!r}")
    axes = dict(space)
    given_over: set[str] = set()
    for text in over:
        name, value = parse_axis(text)
        if name in given_over:
            raise ValueError(f"--over {name} is given twice; keep one of them")
        given_over.add(name)
        axes[name] = value
    merged = {**content, "space": axes, **{key: value for key, value in given.items() if value is not None}}
    try:
        return SweepSettings.model_validate(merged)
    except ValidationError as error:
        where, said = first_mistake(error)
        if error.errors()[0]["type"] == "extra_forbidden":
            raise ValueError(
                f"sweep setting {where} does not exist{did_you_mean(where, SweepSettings.model_fields)}"
            ) from None
        raise ValueError(said if where == "scheduler" else f"sweep setting {where}: {said}") from None


def parse_axis(text: str) -> tuple[str, Any]:
    """Return the name and the values of an axis written as ``key=space``.

    Raises:
        ValueError: if the text has another form.
    """
    keys, value = loading.parse_assignment(text)
    return ".".join(keys), value


def base_tree(path: str | Path, settings: SweepSettings, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the tree of the recipe that trials vary: the file's keys, then the sweep's, then the overrides.

    Raises:
        ValueError: if the result is no valid recipe.
    """
    tree = loading.read_mapping(path, "recipe")
    loading.assign_paths(tree, [(key.split("."), value) for key, value in settings.recipe.items()])
    loading.merge_overrides(tree, overrides)
    loading.parse_recipe(tree)
    return tree


def halving_for(
    settings: SweepSettings, steps: int, every: int, batch: int, key: str = "validation.every"
) -> Halving | None:
    """Return the early stopping, whose budget counts images, since the batch may vary; None for fifo.

    Args:
        steps, every, batch: the recipe's length in steps, steps between measurements of the metric, and batch size.
        key: key of the recipe with that interval, for the message.

    Raises:
        ValueError: if no trial would be validated before its end.
    """
    if settings.scheduler != "asha":
        return None
    grace = settings.grace or every
    if max(grace, every) >= steps:
        raise ValueError(
            f"asha stops trials at measurements of {settings.metric}, but {key}={every} and grace={grace} leave none "
            f"before the end at step {steps}: lower them, or take --scheduler fifo"
        )
    return Halving(grace * batch, settings.reduction, steps * batch)
