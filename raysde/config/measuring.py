"""The sections of a recipe about measurements during training, and the checkpoints that stay because of them."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from raysde.config.node import Count, Node, NonNegative, PositiveInt
from raysde.config.sections import Seed
from raysde.evaluation.metric import Better, known_direction
from raysde.models.sampling_defaults import check_settings
from raysde.training.ranking import BY_LOSS, Mode

LOSS = BY_LOSS.by
KNOWN: dict[Better, Mode] = {"lower": "min", "higher": "max"}


def check_sampler(given: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a sampler that a recipe gives as a mapping, converted to their types.

    Raises:
        ValueError: naming the setting that is unknown or out of range.
    """
    return check_settings(given)


class Validation(Node):
    """Loss on held-out rows."""

    rows: Count | None = Field(
        None,
        description="validation rows, from the data set's validation split, or held out of training at random if it "
        "has none; null: up to 2048 of the split; 0 for no validation",
    )
    every: Count = Field(500, description="steps between validations")
    patience: Count = Field(
        0, description="measurements of keep.by without improvement after which training stops; 0 for never"
    )
    metrics: tuple[str, ...] = Field(
        (),
        description="metrics of `raysde evaluate` of images drawn with the averaged weights, such as [kid, accuracy], "
        "logged as val/kid and so on; clip_score, fd_dinov2 and cmmd are left to `raysde evaluate`",
    )
    metrics_every: PositiveInt | None = Field(
        None, description="steps between measurements of the metrics; null: steps between validations"
    )
    samples: PositiveInt = Field(2048, description="images drawn for the metrics")
    reference: PositiveInt | None = Field(
        None,
        description="real images that they are compared with, at random from the run's training rows; null for all",
    )
    features: str = Field(
        "inception",
        description="network that compares images: inception, judge (a classifier of the data's labels), or a file of "
        "weights",
    )
    allow_few: bool = Field(False, description="allow FID of fewer than 2,048 images")
    seed: Seed = Field(0, description="image i of the metrics is drawn from (seed, i)")
    batch: PositiveInt = Field(256, description="images drawn at a time for the metrics")
    sampler: Annotated[dict[str, Any], AfterValidator(check_sampler)] = Field(
        {},
        description="guidance and solver settings of those images, such as {solver: unipc, steps: 10}; settings left "
        "out default as in `raysde evaluate`",
    )

    where: Literal["workers", "beside"] = Field(
        "workers",
        description="processes that draw the images of the metrics: workers, while training waits, or beside, actors "
        "of Ray on CPUs or GPUs of their own, which measure the checkpoint of that step while training goes on",
    )
    delay: PositiveInt | None = Field(
        None,
        description="with where=beside: steps after a measurement at which early stopping, the ranking of checkpoints "
        "and sweeps use it, and wait for it if it is late; null: the steps between measurements",
    )
    actors: PositiveInt = Field(1, description="with where=beside: actors, each of which measures one checkpoint")
    cpus: PositiveInt = Field(1, description="with where=beside: CPUs of each actor")
    gpus: NonNegative = Field(0.0, description="with where=beside: GPUs of each actor, or a part of one; 0 for none")

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if self.where == "beside" and not self.metrics:
            raise ValueError("where=beside measures metrics, and there are none: set metrics, or leave where out")
        for name in ("delay", "actors", "cpus", "gpus") if self.where == "workers" else ():
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} goes with where=beside; set it, or leave {name} out")
        return self

    @model_validator(mode="after")
    def _drawable(self) -> Self:
        if len(set(self.metrics)) < len(self.metrics):
            raise ValueError(f"metrics must differ, got {list(self.metrics)}")
        if self.metrics and not self.quality_every:
            raise ValueError("metrics are never measured with every=0: set metrics_every")
        return self

    @property
    def quality_every(self) -> int:
        """Steps between measurements of the metrics of drawn images; 0 for none."""
        return (self.metrics_every or self.every) if self.metrics else 0

    @property
    def is_beside(self) -> bool:
        """True if the metrics of drawn images are measured beside training."""
        return self.where == "beside"

    @property
    def decision_delay(self) -> int:
        """Steps after a measurement beside training at which decisions use it; 0 if the workers measure."""
        return (self.delay or self.quality_every) if self.is_beside else 0

    def interval_of(self, metric: str) -> int:
        """Return the steps between measurements of a metric of this section; 0 for none."""
        return self.quality_every if metric in self.quality_names else self.every

    def interval_key(self, metric: str) -> str:
        """Return the key of the recipe that sets :meth:`interval_of` a metric."""
        return "validation.metrics_every" if metric in self.quality_names else "validation.every"

    @property
    def quality_names(self) -> tuple[str, ...]:
        """Names under which the metrics of drawn images are logged."""
        return tuple(f"val/{name}" for name in self.metrics)


class Keep(Node):
    """Checkpoints that stay, and their ranking."""

    newest: PositiveInt = Field(3, description="newest checkpoints kept")
    best: Count | None = Field(
        None,
        description="best checkpoints kept; each checkpoint is then validated at its own step; null: one where "
        "validation runs, of those that are validated anyway",
    )
    by: str = Field(
        LOSS, description="metric that ranks checkpoints and that validation.patience counts, such as val/denoising"
    )
    mode: Mode | None = Field(
        None, description="better direction of that metric: min or max; null: the known one of the metric"
    )
    every: Count = Field(
        0, description="steps between checkpoints kept for good, each the first at or after a multiple; 0 for none"
    )

    @model_validator(mode="before")
    @classmethod
    def _direction(cls, given: Any) -> Any:
        """Fill in the known direction of a metric, so that checkpoints record it."""
        if not isinstance(given, Mapping) or given.get("mode") is not None:
            return given
        by = given.get("by", LOSS)
        better = known_direction(by) if isinstance(by, str) else None
        return {**given, "mode": None if better is None else KNOWN[better]}

    @model_validator(mode="after")
    def _known(self) -> Self:
        better = known_direction(self.by)
        if better is not None and self.mode != KNOWN[better]:
            raise ValueError(f"mode={self.mode} does not fit {self.by}, whose {better} values are better; leave it out")
        return self
