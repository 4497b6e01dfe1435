"""The sections of a recipe about training, sampling, resources and tracking: the meaning and valid values of keys."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, cast

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    create_model,
    model_validator,
)

from raysde.config.names import check_alias, check_name
from raysde.config.node import Count, Fraction, Node, Positive, PositiveInt
from raysde.data.classes import class_name
from raysde.io.own_code import External
from raysde.models.method_fields import make_key
from raysde.models.sampling_defaults import Scale
from raysde.sampling.method import SETTINGS, Settings
from raysde.training.bad_steps import BadStepRule, OnBadStep
from raysde.training.external import ExternalLoss, ExternalOptimizer, ExternalSchedule
from raysde.training.losses import REDUCTIONS, WEIGHTINGS, Reduce, Reduction, Weight, Weighting
from raysde.training.objective import Precision
from raysde.training.optimizers import Decay, Optimizer
from raysde.training.posthoc_ema import check_std
from raysde.training.time_sampling import Importance, LogNormal, Uniform, UniformLogSnr

BelowOne = Annotated[float, Field(ge=0.0, lt=1.0)]
Seed = Annotated[int, Field(ge=0, lt=2**62)]
Name = Annotated[str, AfterValidator(partial(check_name, what="the name"))]
Alias = Annotated[str, AfterValidator(check_alias)]
LabelName = Annotated[str, BeforeValidator(class_name)]


def explain_choices(table: Mapping[str, Weight] | Mapping[str, Reduce]) -> str:
    """Return the choices of a table with their meanings: ``mean (mean over its values), half_sum (half their sum)``."""
    return ", ".join(f"{name} ({choice.meaning})" for name, choice in table.items())


def _union_tag(given: Any) -> str:
    """Return the tag of a value in a union of names and the user's own code."""
    return "external" if isinstance(given, Mapping | External) else "name"


WeightingField = Annotated[
    Annotated[Weighting, Tag("name")] | Annotated[ExternalLoss, Tag("external")], Discriminator(_union_tag)
]
OptimizerField = Annotated[
    Annotated[Optimizer, Tag("name")] | Annotated[ExternalOptimizer, Tag("external")], Discriminator(_union_tag)
]
DecayField = Annotated[
    Annotated[Decay, Tag("name")] | Annotated[ExternalSchedule, Tag("external")], Discriminator(_union_tag)
]
TimesField = Annotated[Uniform | LogNormal | UniformLogSnr | Importance, Field(discriminator="kind")]


class Length(Node):
    """The length of a run, in exactly one unit."""

    steps: PositiveInt | None = Field(None, description="length of the run in optimiser steps")
    epochs: Positive | None = Field(None, description="... or in passes over the data")
    images: PositiveInt | None = Field(None, description="... or in images seen; give exactly one of the three")

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [name for name in ("steps", "epochs", "images") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of steps, epochs and images, got {given or 'none'}")
        return self

    def in_steps(self, batch: int, rows: int) -> int:
        """Return the number of optimizer steps, at least one.

        Args:
            batch: number of rows in a global batch.
            rows: number of training rows, which make an epoch.
        """
        if self.steps is not None:
            return self.steps
        images = self.images if self.images is not None else (self.epochs or 0.0) * rows
        return max(1, round(images / batch))


class EmaSection(Node):
    """The moving average of the weights."""

    half_life: Positive = Field(500_000, description="images after which an old weight counts half")
    rampup: Annotated[float, Field(ge=0.0)] = Field(
        0.05, description="the half-life is at most this share of the images seen; 0: no limit"
    )
    profiles: tuple[float, ...] = Field(
        (),
        description="relative stds of further averages, from which `raysde ema` computes one of any length after "
        "training, such as [0.05, 0.10]; empty for none",
    )
    snapshots_every: Count = Field(
        0, description="steps between snapshots of those averages; 0 for one with each checkpoint only"
    )

    @model_validator(mode="after")
    def _profiles(self) -> Self:
        for std in self.profiles:
            check_std(std)
        if len(set(self.profiles)) < len(self.profiles):
            raise ValueError(f"profiles must differ, got {list(self.profiles)}")
        if self.snapshots_every and not self.profiles:
            raise ValueError("snapshots_every needs averages to keep: set profiles, such as [0.05, 0.10]")
        return self


class Train(Node):
    """The training loop."""

    length: Length = Field(Length(epochs=100), description="length of the run")
    batch: PositiveInt = Field(128, description="images in a global batch, over all workers and accumulation")
    microbatch: PositiveInt | None = Field(
        None,
        description="images in one forward pass; null: one pass for each worker; further passes are accumulated",
    )
    optimizer: OptimizerField = Field(
        "adamw",
        description="adamw, or muon: orthogonalised momentum for matrices and convolutions of the network, AdamW for "
        "the rest; or external for your own",
    )
    lr: Positive = Field(2e-4, description="learning rate; a good value for adamw is also one for muon")
    text_lr: Positive | None = Field(
        None, description="learning rate of a text encoder that is trained, with lr's warm-up and decay; null for lr"
    )
    betas: tuple[BelowOne, BelowOne] = Field((0.9, 0.999), description="decay rates of AdamW's two moments")
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(0.0, description="weight decay, as AdamW's")
    warmup: Count = Field(500, description="updates over which the learning rate rises from zero")
    decay: DecayField = Field(
        "constant",
        description="learning rate after the warm-up: constant, cosine to zero at the end, or external for your "
        "own schedule",
    )
    clip: Annotated[float, Field(ge=0.0)] = Field(1.0, description="largest gradient norm; 0 for none")
    precision: Precision = Field(
        "fp32", description="autocast type of the forward pass: fp32, bf16 or fp16 (with a gradient scaler)"
    )
    compile: bool = Field(
        False, description="torch.compile the network's blocks; slow to start, and on CPU often no gain"
    )
    weighting: WeightingField = Field(
        "sigma2",
        description=f"weighting of the loss over t: {explain_choices(WEIGHTINGS)}, or external for your own loss",
    )
    min_snr_gamma: Positive = Field(5.0, description="gamma of the min_snr weighting")
    reduction: Reduction = Field("mean", description=f"reduction of an image's loss: {explain_choices(REDUCTIONS)}")
    uncertainty: Literal["none", "learned"] = Field(
        "none", description="learned: divide the loss by its variance at each noise level, learned in training"
    )
    times: TimesField | None = Field(
        None, description="sampling of training times; null: lognormal for the EDM SDE and uniform for the others"
    )
    condition_dropout: Fraction = Field(0.1, description="share of captions and labels dropped, so that guidance works")
    on_bad_step: OnBadStep = Field(
        "stop",
        description="stop: a loss or gradient that is not finite ends the run; skip: leave out the update of a bad "
        "step (a loss or gradient that is not finite, or a spike of the loss); rollback: return to the last checkpoint "
        "and pass over the batches since then",
    )
    bad_steps: BadStepRule = Field(BadStepRule(), description="bad steps of on_bad_step=skip and rollback")
    ema: EmaSection = Field(EmaSection(), description="moving average of the weights, which samples are drawn from")

    @model_validator(mode="after")
    def _betas(self) -> Self:
        if isinstance(self.optimizer, ExternalOptimizer) and self.betas != type(self).model_fields["betas"].default:
            raise ValueError("betas are AdamW's; give those of another optimizer in optimizer.kwargs")
        return self


class Grids(Node):
    """Sample grids."""

    every: Count = Field(0, description="steps between sample grids in MLflow, and one at the end; 0 for none")
    count: PositiveInt = Field(16, description="images in a grid")
    prompts: tuple[str, ...] = Field(
        (), description="prompts of the grid, repeated in turn; empty draws without a prompt"
    )
    labels: tuple[LabelName, ...] = Field(
        (), description="class names of the grid, repeated in turn; empty draws without a class"
    )
    attributes: dict[str, tuple[float, ...]] = Field(
        {},
        description="values of numeric attributes for the grid, by name, repeated in turn, such as "
        "{thickness: [1, 2]}; attributes that are left out are unknown",
    )
    guidance: Scale = Field(1.0, description="classifier-free guidance scale; 1 for none")
    seed: Seed = Field(0, description="image i of a grid is drawn from (seed, i)")

    @property
    def settings(self) -> Settings:
        """The keyword arguments of the sampler; null leaves a choice to it."""
        chosen = {name: getattr(self, name) for name in SETTINGS}
        return cast(Settings, {name: value for name, value in chosen.items() if value is not None})


if TYPE_CHECKING:
    Sampling = Grids
else:
    # adds a key for each setting of a sampler
    Sampling = create_model(
        "Sampling",
        __base__=Grids,
        __module__=__name__,
        __doc__=Grids.__doc__,
        **{name: make_key(setting) for name, setting in SETTINGS.items()},
    )


class Resources(Node):
    """Workers and their resources."""

    workers: PositiveInt | tuple[PositiveInt, PositiveInt] = Field(
        1, description="training workers; [least, most]: as many as the cluster has room for"
    )
    gpu: bool | None = Field(None, description="one GPU for each worker; null uses GPUs if the cluster has any")
    cpus_per_worker: PositiveInt | None = Field(
        None, description="CPUs (and torch threads) of a worker; null: an equal share, at most 4 with a GPU"
    )
    strategy: Literal["ddp", "fsdp"] = Field(
        "ddp",
        description="ddp: every worker holds the whole network; fsdp: each holds its share of weights, gradients, "
        "moments and averages, for networks that do not fit one device",
    )
    max_failures: Count = Field(
        3,
        description="restarts after a failed worker or controller before the run fails",
    )

    lease: Positive = Field(
        60.0,
        description="seconds without a sign of life after which another command may take over a run of the same name",
    )
    resize_every: Positive = Field(60.0, description="seconds between checks if an elastic run can have more workers")

    @property
    def least(self) -> int:
        """The smallest number of workers."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most(self) -> int:
        """The largest number of workers."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    @model_validator(mode="after")
    def _workers(self) -> Self:
        if not isinstance(self.workers, int) and self.workers[0] > self.workers[1]:
            raise ValueError(f"workers must be [least, most], got {list(self.workers)}")
        return self


class Tracking(Node):
    """MLflow: server, experiment and registered model."""

    uri: str | None = Field(
        None,
        description="MLflow server or sqlite:/// URI; null takes MLFLOW_TRACKING_URI, or sqlite in ~/raysde/mlflow.db",
    )
    experiment: Annotated[str, Field(min_length=1, max_length=500)] = Field("raysde", description="MLflow experiment")
    register_as: Name | None = Field(None, description="registered model name; null takes the run's name")
    alias: Alias = Field("candidate", description="alias that the newly registered version gets")
