"""The second image that a recipe's model takes as a condition, found in its data set."""

from dataclasses import replace

from raysde.conditioning.images import ColumnCondition, ImageCondition
from raysde.data.condition_column import ConditionColumn
from raysde.data.dataset.manifest import Manifest


def find_condition(condition: ImageCondition | None, manifest: Manifest) -> ImageCondition | None:
    """Return the image condition of a recipe; one of second images with the name and channels of the data set's.

    Raises:
        ValueError: if the data set has none, or another one than the recipe names.
    """
    if not isinstance(condition, ColumnCondition):
        return condition
    found = check_column(condition, manifest, "image_condition.kind=column")
    return replace(condition, name=found.name, channels=found.channels)


def check_column(condition: ColumnCondition, manifest: Manifest, what: str) -> ConditionColumn:
    """Return the second image of a data set.

    Args:
        what: what needs it, for the message.

    Raises:
        ValueError: if the data set has none, or one of another name or number of channels than ``condition`` says.
    """
    found = manifest.condition
    if found is None:
        raise ValueError(
            f"{what}: the data set at {manifest.path} has no second images; ingest it with "
            "`raysde ingest --condition-image NAME`"
        )
    for key, wanted, there in (
        ("name", condition.name, found.name), ("channels", condition.channels, found.channels)
    ):  # fmt: skip
        if wanted not in (None, there):
            raise ValueError(
                f"{what}: the {key} is {wanted}, and the condition image of the data set at {manifest.path} has "
                f"{there}; make them equal"
            )
    return found
