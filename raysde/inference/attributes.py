"""Numeric attributes that images are drawn with: from numbers by name to tensors."""

import math
import warnings
from collections.abc import Mapping, Sequence
from numbers import Real

import torch
from torch import Tensor

from raysde.data.attributes import Attribute, choose_attributes
from raysde.models.spec import ModelSpec

Attributes = Mapping[str, float | Sequence[float | None] | None]
"""Values by name: one for all images, or a list with one for each; None for unknown."""


def attribute_counts(attributes: Attributes | None) -> list[int]:
    """Return the lengths of the lists among the values."""
    return [len(values) for values in (attributes or {}).values() if isinstance(values, Sequence)]


def attribute_tensor(spec: ModelSpec, attributes: Attributes | None, count: int) -> Tensor | None:
    """Return the attributes of ``count`` images, float32 [count, A] with NaN for unknown; None without attributes.

    A value outside the range of the training data causes a warning.

    Raises:
        ValueError: if the model has no such attribute, a value is no finite number, or a list has another length.
    """
    if not attributes:
        return None
    given = {name: _list_values(name, values, count) for name, values in attributes.items()}
    for each in choose_attributes(given, spec.attributes, "the model"):
        warn_outside(each, given[each.name])
    unknown = [math.nan] * count
    rows = [given.get(each.name, unknown) for each in spec.attributes]
    return torch.tensor(rows, dtype=torch.float32).T.contiguous()


def _list_values(name: str, values: float | Sequence[float | None] | None, count: int) -> list[float]:
    """Return one number for each of ``count`` images, NaN for unknown."""
    if isinstance(values, str) or not isinstance(values, Sequence | Real | None):
        raise ValueError(f"attribute {name!r} must be a number or a list of numbers, got {values!r}")
    given = list(values) if isinstance(values, Sequence) else [values] * count
    if len(given) != count:
        raise ValueError(f"attribute {name!r} has {len(given)} values for {count} images; give one, or one for each")
    for value in given:
        if value is not None and (isinstance(value, bool) or not isinstance(value, Real) or math.isinf(value)):
            raise ValueError(f"attribute {name!r} must be a finite number, got {value!r}")
    return [math.nan if value is None else float(value) for value in given]


def warn_outside(attribute: Attribute, values: Sequence[float]) -> None:
    """Warn if values, NaN for unknown, are outside the range of the training data."""
    for value in values:
        if not math.isnan(value) and not attribute.contains(value):
            warnings.warn(
                f"attribute {attribute.name}={value:g} is outside the training data's range, {attribute.low:g} to "
                f"{attribute.high:g}; the model extrapolates",
                stacklevel=2,
            )
            return


def known_values(spec: ModelSpec, values: Tensor | None) -> dict[str, list[float | None]] | None:
    """Return the attributes [count, A] of images by name, without those that are unknown for all; None without any."""
    if values is None:
        return None
    columns = {each.name: column for each, column in zip(spec.attributes, values.T.tolist(), strict=True)}
    found = {name: [None if math.isnan(value) else value for value in column] for name, column in columns.items()}
    return {name: column for name, column in found.items() if any(value is not None for value in column)}
