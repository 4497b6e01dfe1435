"""The numeric attributes of a recipe, found in its data set."""

from collections.abc import Sequence

from raysde.data.attributes import Attribute, choose_attributes
from raysde.data.dataset.manifest import Manifest


def find_attributes(names: Sequence[str], manifest: Manifest) -> tuple[Attribute, ...]:
    """Return the attributes of a recipe with their ranges in the data set.

    Raises:
        ValueError: if the data set lacks one, or all its rows have the same value.
    """
    try:
        found = choose_attributes(names, manifest.attributes, "the data set")
    except ValueError as error:
        more = "" if manifest.attributes else "; ingest them with `raysde ingest --attributes`"
        raise ValueError(f"attributes.names: {error} at {manifest.path}{more}") from None
    for each in found:
        if each.low == each.high:
            raise ValueError(
                f"attributes.names: {each.name} is {each.low:g} in all rows of {manifest.path}, so that nothing can be "
                "learned of it; leave it out"
            )
    return found
