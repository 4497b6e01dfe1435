"""The sections of a recipe: the meaning and the valid values of each key."""

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

from raysde.config.mixed_data import FILTER, VERSION, WEIGHTS, FilterText, MixedData, WeightsField
from raysde.config.names import check_alias, check_name
from raysde.config.node import Count, Fraction, Node, Positive, PositiveInt
from raysde.data.batches.shares import exact_shares
from raysde.data.classes import class_name
from raysde.data.dataset.precomputed import LatentViews
from raysde.data.dataset.verify import Verification
from raysde.data.dataset.view import Crop
from raysde.images.sizes import read_size
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


def _join_equal_sides(given: Any) -> Any:
    """Return one number if both sides are equal, so that a size has one form, else (height, width)."""
    height, width = read_size(given)
    return height if height == width else (height, width)


def _read_off(given: Any) -> Any:
    """Return the word ``off``, which YAML reads as False."""
    return "off" if given is False else given


def explain_choices(table: Mapping[str, Weight] | Mapping[str, Reduce]) -> str:
    """Return the choices of a table with their meanings: ``mean (mean over its values), half_sum (half their sum)``."""
    return ", ".join(f"{name} ({choice.meaning})" for name, choice in table.items())


ImageSize = Annotated[PositiveInt | tuple[PositiveInt, PositiveInt], BeforeValidator(_join_equal_sides)]


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


class Data(Node):
    """The data set and its reading."""

    path: str | None = Field(None, description="folder or URI of the shards that `raysde ingest` made; or set data.mix")
    mix: Annotated[tuple[MixedData, ...], Field(min_length=1)] | None = Field(
        None,
        description="several data sets in place of data.path, a list of {path, weight}; each entry may also have "
        "version, filter, weights, caption_template and condition_dropout of its own. At every row of the run, each "
        "data set has its share of the rows to within one row",
    )
    version: PositiveInt | None = Field(None, description=f"{VERSION}; with data.mix, set it in the entries")
    filter: FilterText | None = Field(None, description=f"{FILTER}; with data.mix, set it in the entries")
    weights: WeightsField | None = Field(None, description=f"{WEIGHTS}; with data.mix, set it in the entries")
    verify: Verification | None = Field(
        None,
        description="check of the shards before a run: hash reads them all; schema compares each one's size and "
        "columns; listing compares sizes, and on s3:// entity tags, with a listing of the folder; null: listing on "
        "object stores, hash on disk",
    )
    range: tuple[float, float] = Field((-1.0, 1.0), description="values of black and white in the SDE's data range")
    std: Positive = Field(0.5, description="standard deviation of a pixel in that range; scales the network's input")
    image_size: ImageSize | None = Field(
        None, description="training size in pixels, one number or [height, width]; null: the shards' size"
    )
    crop: Crop = Field("center", description="position of the crop of larger images: center or random")
    scale: tuple[Fraction, Fraction] = Field(
        (1.0, 1.0),
        description="side of the random crop, as a share of the largest that fits: [smallest, largest]; then resized",
    )
    sigma_max_rows: Count = Field(
        0, description="take VE's sigma_max from the largest distance between this many images; 0 keeps sde.sigma_max"
    )
    flip: bool = Field(False, description="mirror images at random")
    precomputed: Annotated[Literal["auto", "off", "require"], BeforeValidator(_read_off)] = Field(
        "auto",
        description="caption embeddings that `raysde precompute` wrote for a frozen text encoder: use them if they "
        "exist, never, or always",
    )
    shuffle_window: PositiveInt | None = Field(
        None,
        description="shuffle buffer in rows for a global batch, a few row groups for each microbatch; row groups are "
        "shuffled across all shards first; null: all rows of data sets up to 192 MB, else 64 MB to 1 GB of encoded "
        "images, which grow with the batch",
    )
    stream: Literal["ray", "worker"] = Field(
        "ray",
        description="process that reads and decodes: ray for Ray Data's tasks anywhere in the cluster, worker for the "
        "training worker, which starts sooner and suffices for small images; rows and weights are the same",
    )
    block_megabytes: Positive = Field(128.0, description="size of Ray Data's blocks in MB of decoded images")
    block_steps: PositiveInt = Field(64, description="largest number of steps in one block")
    nodes: dict[str, str] | None = Field(
        None,
        description="labels of the nodes that run Ray Data's tasks, such as {raysde: data} for nodes started with "
        "`ray start --labels raysde=data`; null: all nodes",
    )

    @property
    def sources(self) -> tuple[MixedData, ...]:
        """The data sets: those of ``mix``, or the one at ``path``."""
        if self.mix is not None:
            return self.mix
        assert self.path is not None
        return (MixedData(path=self.path, weight=1.0, version=self.version, filter=self.filter, weights=self.weights),)

    @property
    def is_plain(self) -> bool:
        """True for one data set without weights."""
        return self.mix is None and self.weights is None

    @property
    def place(self) -> str:
        """Path of the data set, or of all data sets, for messages."""
        return " + ".join(each.path for each in self.sources)

    def key(self, number: int, name: str) -> str:
        """Return the full key of a setting of data set ``number``."""
        return f"data.{name}" if self.mix is None else f"data.mix.{number}.{name}"

    @model_validator(mode="after")
    def _sources(self) -> Self:
        if self.path is None and self.mix is None:
            raise ValueError("path is required: the folder or URI of the shards; or set mix, a list of {path, weight}")
        if self.path is not None and self.mix is not None:
            raise ValueError("path and mix exclude each other; set data.path=null, or data.mix=null")
        for name in ("version", "filter", "weights") if self.mix is not None else ():
            if getattr(self, name) is not None:
                raise ValueError(f"{name} goes with path; remove it, and give the entries of mix {name} of their own")
        if self.mix is not None:
            exact_shares([source.weight for source in self.mix])
        return self

    @model_validator(mode="after")
    def _range(self) -> Self:
        if not self.range[0] < self.range[1]:
            raise ValueError(f"range must be (low, high) with low < high, got {self.range}")
        if not 0.0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale must be (low, high) with 0 < low <= high, got {self.scale}")
        return self


class Attributes(Node):
    """Numeric attributes of the images as conditions."""

    names: tuple[str, ...] = Field(
        (), description="numeric attributes as conditions, of those that `raysde ingest --attributes` stored"
    )
    dropout: Fraction = Field(
        0.0,
        description="share of values of each attribute that are dropped by themselves, so that images can be drawn "
        "with some attributes unknown; train.condition_dropout drops all conditions together",
    )

    @model_validator(mode="after")
    def _names(self) -> Self:
        for place, name in enumerate(self.names):
            if name in self.names[:place]:
                raise ValueError(f"names holds {name!r} twice; name it once")
        if self.dropout and not self.names:
            raise ValueError("dropout needs attributes: set attributes.names, or remove the key")
        return self


class Latent(Node):
    """Training in the latent space of an autoencoder."""

    vae: str = Field(
        description="AutoencoderKL of diffusers, by path or name; `raysde precompute SHARDS --vae` encodes the images"
    )
    flip: bool = Field(False, description="mirror images at random; precomputed with --flip")
    crops: Count = Field(
        0, description="random crops of each image, one of which or the whole image is drawn; precomputed with --crops"
    )
    scale: tuple[Fraction, Fraction] = Field(
        (1.0, 1.0), description="side of a crop, as a share of the whole image: [smallest, largest]"
    )

    @property
    def views(self) -> LatentViews:
        """The views of each image."""
        return LatentViews(flip=self.flip, crops=self.crops, scale=self.scale)

    @model_validator(mode="after")
    def _views(self) -> Self:
        assert self.views.count
        return self


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
