"""The sections of a recipe about its data: the data set, numeric attributes and precomputed latents."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from raysde.config.mixed_data import FILTER, VERSION, WEIGHTS, FilterText, MixedData, WeightsField
from raysde.config.node import Count, Fraction, Node, Positive, PositiveInt
from raysde.data.batches.shares import exact_shares
from raysde.data.dataset.precomputed import LatentViews
from raysde.data.dataset.verify import Verification
from raysde.data.dataset.view import Crop
from raysde.images.sizes import read_size


def _join_equal_sides(given: Any) -> Any:
    """Return one number if both sides are equal, so that a size has one form, else (height, width)."""
    height, width = read_size(given)
    return height if height == width else (height, width)


def _read_off(given: Any) -> Any:
    """Return the word ``off``, which YAML reads as False."""
    return "off" if given is False else given


ImageSize = Annotated[PositiveInt | tuple[PositiveInt, PositiveInt], BeforeValidator(_join_equal_sides)]


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
