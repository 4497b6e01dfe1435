"""Selection of the real images to measure, and of the conditions of drawn images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from raysde.data.attributes import choose_attributes
from raysde.data.classes import match_classes
from raysde.data.condition_column import CONDITION
from raysde.data.dataset.layout import Rows, choose_positions
from raysde.data.dataset.manifest import Manifest, Split
from raysde.data.dataset.reader import Columns, Reader, open_dataset_reader
from raysde.data.dataset.view import View
from raysde.evaluation.real_data import RealData, RealReader, conditions_of

CAPTIONED = 10_000
"""Largest number of rows whose captions are used as prompts."""
T = TypeVar("T")


def select_rows(data: Manifest | RealReader, split: Split, count: int | None, seed: int = 0) -> np.ndarray:
    """Return row numbers int64 [N], ascending, of ``count`` random rows of a split (all if None).

    Args:
        data: a data set, or a choice of the rows of one or several, see :meth:`RealData.choose_rows`.
        seed: seed of the random choice.

    Raises:
        ValueError: if the split has no rows.
    """
    if isinstance(data, RealData):
        return data.choose_rows(split, count, seed)
    manifest = data.manifest if isinstance(data, Reader) else data
    rows = Rows(manifest.layouts(split), np.empty(0, dtype=np.int64))
    if not rows.count:
        raise ValueError(
            f"the data at {manifest.path} has no rows of split {split}"
            "; choose another split, or ingest with --validation"
        )
    return np.sort(rows.number_positions(choose_positions(rows, count or rows.count, seed)))


def list_rows(reader: RealReader, split: Split) -> np.ndarray:
    """Return row numbers int64 [N], ascending, of every row of a split that a reader's filters select.

    Raises:
        ValueError: if the split has no rows.
    """
    return reader.list_rows(split) if isinstance(reader, RealData) else select_rows(reader, split, None)


def read_images(reader: RealReader, rows: np.ndarray, shape: tuple[int, int]) -> Columns:
    """Read rows as uint8 images [N, H, W, C]; each is the largest box in the middle of the stored image, resized.

    Args:
        rows: row numbers, int64 [N].
        shape: (height, width) of the result in pixels.
    """
    return reader.read(rows, View(shape))


def to_image_tensor(columns: Columns) -> Tensor:
    """Return the images as a uint8 tensor [B, C, H, W]."""
    return torch.from_numpy(columns.images).permute(0, 3, 1, 2).contiguous()


@dataclass(frozen=True)
class SecondImages:
    """The second images of some rows, which any process reads when it draws for them.

    Attributes:
        places: location and content hash of each data set.
        starts: number of the first row of each data set.
        rows: row numbers.
        shape: (height, width) of the images to draw in pixels.
    """

    places: tuple[tuple[str, str], ...]
    starts: tuple[int, ...]
    rows: tuple[int, ...]
    shape: tuple[int, int]

    @classmethod
    def of(cls, reader: RealReader, rows: np.ndarray, shape: tuple[int, int]) -> Self:
        """Return the second images of rows [N] of a reader."""
        sources = [source.manifest for source in reader.sources] if isinstance(reader, RealData) else [reader.manifest]
        starts = np.cumsum([0, *(manifest.rows for manifest in sources[:-1])])
        places = tuple((manifest.path, manifest.fingerprint) for manifest in sources)
        return cls(places, tuple(starts.tolist()), tuple(rows.tolist()), shape)

    def read(self, numbers: range) -> Tensor:
        """Return the second images for drawn images, which take the rows in turn: uint8 [N, C, H, W].

        Raises:
            ValueError: if a data set was changed, or a shard is missing or damaged.
        """
        rows = np.array([self.rows[number % len(self.rows)] for number in numbers])
        sources = np.searchsorted(self.starts, rows, side="right") - 1
        parts: dict[int, np.ndarray] = {}
        for number in np.unique(sources).tolist():
            reader = open_dataset_reader(*self.places[number], fields=frozenset({CONDITION}))
            found = reader.read(rows[sources == number] - self.starts[number], View(self.shape)).condition_images
            assert found is not None
            parts[number] = found
        images = np.empty((len(rows), *next(iter(parts.values())).shape[1:]), dtype=np.uint8)
        for number, found in parts.items():
            images[sources == number] = found
        return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


@dataclass(frozen=True)
class ImageConditions:
    """Conditions of drawn images: labels in rotation, and the captions and attributes of each label in rotation.

    Captions, attributes and second images are in random order, so that those of few images represent the data. With
    attributes, the caption and the attributes of an image are those of one row.

    With second images, each row of the data is a group of its own, so that all conditions of an image are of one row.

    Attributes:
        labels: class numbers of the data, empty without labels.
        captions: captions of each label; a single tuple without labels; empty without captions.
        takes_labels: True if the model takes labels; otherwise they serve only to know the class of a caption.
        numbers: the model's class number for each of the data's; empty if they are the same.
        names: names of the numeric attributes that the model takes.
        values: attributes of rows of each label, a row's in the order of ``names`` and None for unknown; a single tuple
            without labels.
        seconds: second images of the rows, one for each group; None for a model that takes none.
    """

    labels: tuple[int, ...] = ()
    captions: tuple[tuple[str, ...], ...] = ()
    takes_labels: bool = False
    numbers: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    values: tuple[tuple[tuple[float | None, ...], ...], ...] = ()
    seconds: SecondImages | None = None

    def label(self, number: int) -> int | None:
        """Return the class that image ``number`` should show, or None if that is not known."""
        return self.labels[number % len(self.labels)] if self.labels else None

    def prompt(self, number: int) -> str | None:
        """Return the caption that image ``number`` is drawn for, or None without captions."""
        if not self.captions:
            return None
        group, turn = number % len(self.captions), number // len(self.captions)
        return self.captions[group][turn % len(self.captions[group])]

    def attributes(self, number: int) -> tuple[float | None, ...]:
        """Return the numeric attributes that image ``number`` is drawn for, in the order of ``names``."""
        group, turn = number % len(self.values), number // len(self.values)
        return self.values[group][turn % len(self.values[group])]

    def drawing(self, numbers: range) -> dict[str, Any]:
        """Return the conditions of images as keyword arguments of a model's ``sample``."""
        prompts = [self.prompt(number) for number in numbers] if self.captions else None
        labels = [self.label(number) for number in numbers] if self.takes_labels else None
        if labels is not None and self.numbers:
            labels = [None if label is None else self.numbers[label] for label in labels]
        found: dict[str, Any] = {"prompts": prompts, "labels": labels}
        if self.seconds is not None:
            found["condition_images"] = self.seconds.read(numbers)
        if not self.names:
            return found
        columns = zip(*(self.attributes(number) for number in numbers), strict=True)
        given = {name: list(column) for name, column in zip(self.names, columns, strict=True)}
        return {**found, "attributes": given}


def draw_conditions(
    reader: RealReader,
    split: Split,
    *,
    classes: int,
    captions: bool,
    names: Sequence[str] = (),
    attributes: Sequence[str] = (),
) -> ImageConditions:
    """Return the conditions of a model, from the rows of a split; classes without a row are left out.

    Args:
        classes: number of classes that the model takes, 0 for none.
        captions: True if the model takes captions.
        names: names of the model's classes in the order of their numbers; empty if they are not known.
        attributes: names of the numeric attributes that the model takes.

    Raises:
        ValueError: if the data has other classes than the model, no captions, or lacks an attribute.
    """
    found = draw_words(reader, split, classes=classes, captions=captions, names=names)
    if not attributes:
        return found
    choose_attributes(attributes, reader.manifest.attributes, f"the data at {reader.manifest.path}")
    by_label = described_rows(reader, select_rows(reader, split, CAPTIONED), attributes, captions=captions)
    every = [row for rows in by_label.values() for row in rows]
    groups = [shuffle(by_label.get(label, every)) for label in found.labels] or [shuffle(every)]
    words = tuple(tuple(caption for caption, _ in rows) for rows in groups) if captions else ()
    values = tuple(tuple(numbers for _, numbers in rows) for rows in groups)
    return replace(found, captions=words, names=tuple(attributes), values=values)


def draw_words(
    reader: RealReader, split: Split, *, classes: int, captions: bool, names: Sequence[str]
) -> ImageConditions:
    """Return the captions and labels of a model's conditions; the arguments are those of :func:`draw_conditions`.

    Raises:
        ValueError: if the data has other classes than the model, or no captions.
    """
    manifest = reader.manifest
    numbers = match_classes(manifest.labels, manifest.path, classes, names) if classes else ()
    if not manifest.rows_in(split):
        raise ValueError(f"the data at {manifest.path} has no rows of split {split}; choose another --split")
    present = reader.classes_in(split) if classes or captions else ()
    if classes and not present:
        raise ValueError(f"the model takes labels, and no row of split {split} at {manifest.path} has one")
    if not captions:
        return ImageConditions(present, takes_labels=bool(classes), numbers=numbers)
    found = captions_by_label(reader, select_rows(reader, split, CAPTIONED))
    if not any(found.values()):
        raise ValueError(f"the model takes captions, and the data at {manifest.path} has none")
    if set(found) != set(present) or not all(found.values()) or not present:
        if classes:
            raise ValueError(f"not every class of the data at {manifest.path} has a caption")
        return ImageConditions(captions=(tuple(shuffle(sorted(set().union(*found.values())))),))
    asked = tuple(tuple(shuffle(sorted(found[label]))) for label in present)
    return ImageConditions(present, asked, takes_labels=classes > 0, numbers=numbers)


def draw_row_conditions(
    reader: RealReader,
    split: Split,
    shape: tuple[int, int],
    *,
    classes: int,
    captions: bool,
    names: Sequence[str] = (),
    attributes: Sequence[str] = (),
) -> ImageConditions:
    """Return the conditions of a model that takes second images: those of held-out rows, or of a split without them.

    Args:
        shape: (height, width) of the images to draw in pixels.
        classes, captions, names, attributes: see :func:`draw_conditions`.

    Raises:
        ValueError: as :func:`draw_conditions`.
    """
    whole = draw_conditions(reader, split, classes=classes, captions=captions, names=names, attributes=attributes)
    rows = select_rows(reader, "validation" if has_rows(reader, "validation") else split, CAPTIONED)
    found = shuffle(list(conditions_of(reader, rows)))
    rows = rows[random_order(len(rows))]
    known = [number >= 0 for number, _, _ in found]
    kept = np.array(known if classes and any(known) else [True] * len(found))
    labels, said, numbers = zip(*(each for each, here in zip(found, kept, strict=True) if here), strict=True)
    values: tuple[tuple[tuple[float | None, ...], ...], ...] = ()
    if attributes:
        places = [reader.attributes.index(name) for name in attributes]
        values = tuple((known_numbers(row[places]),) for row in numbers)
    return replace(
        whole,
        labels=tuple(labels) if min(labels) >= 0 else (),
        captions=tuple(((*each, "")[0],) for each in said) if captions else (),
        values=values,
        seconds=SecondImages.of(reader, rows[kept], shape),
    )


def random_order(count: int) -> np.ndarray:
    """Return a fixed random permutation, int64 [count]: the first conditions of sorted data would not represent it."""
    return np.random.Generator(np.random.Philox(key=0)).permutation(count)


def shuffle(values: Sequence[T]) -> list[T]:
    """Return values in the order of :func:`random_order`."""
    return [values[place] for place in random_order(len(values))]


def has_rows(reader: RealReader, split: Split) -> bool:
    """Return True if each data set of a reader has rows of a split that its filter selects."""
    if isinstance(reader, RealData):
        return all(part.count for part in reader.rows_in(split))
    return reader.manifest.rows_in(split) > 0


def captions_by_label(reader: RealReader, rows: np.ndarray) -> dict[int, set[str]]:
    """Return the first captions of rows [N], grouped by class number, -1 for rows without a label.

    Raises:
        ValueError: naming the shard that is missing or damaged.
    """
    found: dict[int, set[str]] = {}
    for number, captions, _ in conditions_of(reader, rows):
        found.setdefault(number, set()).update(captions[:1])
    return found


def described_rows(
    reader: RealReader, rows: np.ndarray, names: Sequence[str], *, captions: bool
) -> dict[int, list[tuple[str, tuple[float | None, ...]]]]:
    """Return the first caption and the numeric attributes, in the order of ``names``, of each of the rows [N].

    They are grouped by class number, -1 for rows without a label. With ``captions``, rows without one are left out.

    Raises:
        ValueError: naming the shard that is missing or damaged.
    """
    places = [reader.attributes.index(name) for name in names]
    found: dict[int, list[tuple[str, tuple[float | None, ...]]]] = {}
    for number, texts, values in conditions_of(reader, rows):
        assert values is not None, "the reader gives attributes"
        caption = (*texts, "")[0]
        if caption or not captions:
            found.setdefault(number, []).append((caption, known_numbers(values[places])))
    return found


def known_numbers(values: np.ndarray) -> tuple[float | None, ...]:
    """Return numbers [A] with None in place of NaN."""
    return tuple(None if np.isnan(value) else float(value) for value in values)
