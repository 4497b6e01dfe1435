"""The second image of each row of a data set, such as a depth map, which models may take as a condition."""

from dataclasses import dataclass
from typing import Literal, get_args

from raysde.data.attributes import NAME, RESERVED

CONDITION = "condition_image"
"""Column of the shards with the second images, and the field of a reader that reads them."""
Resample = Literal["smooth", "nearest"]
RESAMPLES = {
    "smooth": "scale second images as images are scaled",
    "nearest": "take the nearest pixel, so that levels and colours of segmentation maps do not mix; store them as PNG",
}


@dataclass(frozen=True)
class ConditionColumn:
    """The second image that every row of a data set has, of the size of the row's image.

    Attributes:
        name: its name in the source, such as ``depth``: lower case letters, digits and underscores.
        channels: 1 (grey) or 3 (RGB).
        resample: way of scaling it, see :data:`RESAMPLES`.

    Raises:
        ValueError: naming the value that is invalid.
    """

    name: str
    channels: int = 1
    resample: Resample = "smooth"

    def __post_init__(self) -> None:
        check_condition_name(self.name)
        if self.channels not in (1, 3) or type(self.channels) is not int:
            raise ValueError(f"condition image {self.name!r} has {self.channels!r} channels, expected 1 or 3")
        if self.resample not in get_args(Resample):
            raise ValueError(
                f"condition image {self.name!r} has resample {self.resample!r}, expected {' or '.join(RESAMPLES)}"
            )

    def describe(self) -> str:
        """Return name, colour and way of scaling as text, such as ``depth, grey``."""
        scaled = ", scaled to the nearest pixel" if self.resample == "nearest" else ""
        return f"{self.name}, {'grey' if self.channels == 1 else 'RGB'}{scaled}"


def check_condition_name(name: str) -> str:
    """Return the name of a second image.

    Raises:
        ValueError: if it is not one word, or a word with another meaning.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name) or name in RESERVED:
        raise ValueError(
            f"condition image {name!r}: a name has letters, digits and underscores alone, and is not one of "
            f"{', '.join(RESERVED)}; rename the column or the files"
        )
    return name
