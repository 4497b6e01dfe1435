"""What a sweep is asked for: a YAML file, and what the command line says otherwise."""

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
NO_CHECKPOINTS = "it pauses trials and copies their checkpoints, which trials of Ray Train keep themselves"
REFUSED = {
    "pbt": NO_CHECKPOINTS,
    "pb2": NO_CHECKPOINTS,
    "bohb": "it pauses trials, which those of Ray Train cannot, and needs the hpbandster package",
    "hyperband": "it pauses trials, which those of Ray Train cannot",
}
"""Schedulers of Ray Tune that cannot work here, and why."""


class SweepSettings(BaseModel):
    """A sweep's settings; a YAML file holds them under the same names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    space: dict[str, Any] = Field(
        {}, description="axes: names of keys to lists or ranges, see raysde.tuning.training.space"
    )
    recipe: dict[str, Any] = Field({}, description="dotted keys of the recipe that the sweep sets, such as its length")
    search: Search = "random"
    trials: AtLeastOne | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    scheduler: str = "asha"
    grace: AtLeastOne | None = Field(None, description="steps that every trial gets; null for those to a validation")
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
    """The settings of a sweep.

    Args:
        path: of a YAML file, None for none.
        over: further axes as ``key=space``, which replace those of the file.
        given: settings of the command line, which replace those of the file; None for what was not given.

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
    """The name and the values of ``key=space``.

    Raises:
        ValueError: if it does not read so.
    """
    keys, value = loading.parse_assignment(text)
    return ".".join(keys), value


def base_tree(path: str | Path, settings: SweepSettings, overrides: Sequence[str]) -> dict[str, Any]:
    """The tree of the recipe that trials vary: the file's, with what the sweep and then the command line set.

    Raises:
        ValueError: if that is no recipe.
    """
    tree = loading.read_mapping(path, "recipe")
    loading.assign_paths(tree, [(key.split("."), value) for key, value in settings.recipe.items()])
    loading.merge_overrides(tree, overrides)
    loading.parse_recipe(tree)
    return tree


def halving_for(settings: SweepSettings, steps: int, every: int, batch: int) -> Halving | None:
    """Early stopping, counted in images, since a batch may vary.

    Args:
        steps, every, batch: of the recipe that trials vary: its length, the steps between validations, and its batch.

    Raises:
        ValueError: if no trial would be validated before its end.
    """
    if settings.scheduler != "asha":
        return None
    grace = settings.grace or every
    if max(grace, every) >= steps:
        raise ValueError(
            f"asha stops trials at validations, but validation.every={every} and grace={grace} leave none before the "
            f"end at step {steps}: lower them, or take --scheduler fifo"
        )
    return Halving(grace * batch, settings.reduction, steps * batch)
