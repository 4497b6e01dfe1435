"""The base class of a recipe's sections, and the numbers that they hold."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Node(BaseModel):
    """Base class of a recipe's sections, which refuse unknown keys, NaN and infinity, and are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
