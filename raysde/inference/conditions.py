"""Conditions of a batch of images: counted, as numbers and tensors, by rows."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import TypeVar

import torch
from torch import Tensor

from raysde.data.attributes import Attribute, choose_attributes
from raysde.data.classes import Label, class_numbers
from raysde.inference.guidance import EncodeConditions
from raysde.models.spec import ModelSpec

Value = TypeVar("Value")

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


def label_numbers(spec: ModelSpec, labels: Sequence[Label] | None) -> list[int] | None:
    """Return the class numbers of labels, or None if ``labels`` is None.

    Raises:
        ValueError: if a label is no class of the model.
    """
    return None if labels is None else class_numbers(labels, spec.classes, spec.class_names)


def select_rows(values: Sequence[Value] | None, rows: slice) -> Sequence[Value] | None:
    """Return the values of a slice of the images, None without values."""
    return None if values is None else values[rows]


def encode_rows(
    prompts: Sequence[str] | None,
    labels: Sequence[int] | None,
    count: int,
    attributes: Tensor | None,
    planes: Tensor | None = None,
) -> EncodeConditions:
    """Return a function that encodes the conditions of ``count`` images by a model's own conditioner.

    Args:
        prompts, labels: one for each image; None without.
        attributes: [count, A], NaN for unknown.
        planes: planes of the image condition [count, E, H, W].
    """
    return lambda conditioner: replace(conditioner.encode(prompts, labels, count, attributes), image=planes)


def count_images(
    prompts: Sequence[str] | None,
    labels: Sequence[Label] | None,
    n: int | None,
    attributes: Attributes | None = None,
) -> int:
    """Return the number of images that prompts, labels, lists of attributes and ``n`` ask for.

    Raises:
        ValueError: if their counts differ, the number is less than 1, or prompts or labels are no list.
    """
    for name, values in (("prompts", prompts), ("labels", labels)):
        if isinstance(values, str) or not (values is None or hasattr(values, "__len__")):
            raise ValueError(f"{name} must be a list with one for each image, got {values!r}")
    given = [len(values) for values in (prompts, labels) if values is not None] + attribute_counts(attributes)
    count = n if n is not None else given[0] if given else 1
    if count < 1 or any(size != count for size in given):
        raise ValueError(
            f"n={n}, but {given} prompts, labels or attributes; give one for each image, and at least one image"
        )
    return count
