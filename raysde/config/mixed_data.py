"""The entries of ``data.mix``, and the keys of a data set that they share with ``data``."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag

from raysde.config.node import Fraction, Node, Positive, PositiveInt
from raysde.data.dataset.filters import normalise_filter
from raysde.data.dataset.sources import check_template
from raysde.data.dataset.weights import ColumnWeights


def _weights_tag(given: Any) -> str:
    """Return the tag of a value in the union of ways to weigh rows."""
    return "column" if isinstance(given, Mapping | ColumnWeights) else "name"


WeightsField = Annotated[
    Annotated[Literal["balanced"], Tag("name")] | Annotated[ColumnWeights, Tag("column")], Discriminator(_weights_tag)
]
FilterText = Annotated[str, AfterValidator(normalise_filter)]
VERSION = (
    "version of the data set, which `raysde ingest --append` counts up; null: the newest when the run begins, on which "
    "the run stays"
)
FILTER = (
    "rows to train and validate on, by columns that `raysde ingest --keep-columns` kept, such as "
    "\"aesthetic > 5 and width >= 256 and language in ['en', 'de']\"; null: all rows"
)
WEIGHTS = (
    "rows drawn more or less often: balanced draws every class equally often, {column: NAME} draws rows in proportion "
    "to a numeric column that was kept or is in the shards; null draws each row once an epoch"
)


class MixedData(Node):
    """One of several data sets that are mixed."""

    path: str = Field(description="folder or URI of the shards that `raysde ingest` made")
    weight: Positive = Field(description="share of the rows, in proportion to the weights of the other data sets")
    version: PositiveInt | None = Field(None, description=VERSION)
    filter: FilterText | None = Field(None, description=FILTER)
    weights: WeightsField | None = Field(None, description=WEIGHTS)
    caption_template: Annotated[str, AfterValidator(check_template)] | None = Field(
        None, description="captions in training, such as 'a photo of {caption}' or 'a photo of a {label}'"
    )
    condition_dropout: Fraction | None = Field(
        None, description="share of this data set's captions and labels dropped; null: train.condition_dropout"
    )
