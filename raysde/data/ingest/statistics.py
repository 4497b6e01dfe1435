"""Statistics of a data set, computed for each part and added up: labels, captions, sizes and pixels."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from raysde.data.attributes import Attribute


@dataclass
class Statistics:
    """Sums over rows; :meth:`add` combines the sums of several parts.

    Attributes:
        rows, captioned: number of rows, and of rows with a caption.
        captions, characters, longest: number of captions, of characters in all of them, and in the longest one.
        labels: number of rows of each label.
        widths, heights: smallest and largest width and height of the source images in pixels.
        pixels: number of pixels.
        total, squares: sums over pixels of values in [0, 1] and of their squares by channel, float64 [3].
        numbers: of each numeric attribute, the number, smallest, largest, sum and sum of squares of its values.
    """

    rows: int = 0
    captioned: int = 0
    captions: int = 0
    characters: int = 0
    longest: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    widths: tuple[int, int] = (1 << 31, 0)
    heights: tuple[int, int] = (1 << 31, 0)
    pixels: int = 0
    total: np.ndarray = field(default_factory=lambda: np.zeros(3))
    squares: np.ndarray = field(default_factory=lambda: np.zeros(3))
    numbers: dict[str, list[float]] = field(default_factory=dict)

    def count(
        self,
        picture: Image.Image,
        found: tuple[int, int],
        captions: tuple[str, ...],
        label: str | None,
        attributes: Mapping[str, float | None] | None = None,
    ) -> None:
        """Add a row: the stored picture, the source image's (width, height) ``found``, and its descriptions."""
        for name, value in (attributes or {}).items():
            if value is not None:
                self._count_numbers(name, [1, value, value, value, value**2])
        self.rows += 1
        self.captioned += bool(captions)
        self.captions += len(captions)
        lengths = [len(caption) for caption in captions]
        self.characters += sum(lengths)
        self.longest = max([self.longest, *lengths])
        if label is not None:
            self.labels[label] += 1
        self.widths = (min(self.widths[0], found[0]), max(self.widths[1], found[0]))
        self.heights = (min(self.heights[0], found[1]), max(self.heights[1], found[1]))
        counts = np.asarray(picture.histogram(), dtype=np.int64).reshape(-1, 256)
        values = np.arange(256) / 255.0
        self.pixels += int(counts[0].sum())
        self.total[: len(counts)] += counts @ values
        self.squares[: len(counts)] += counts @ values**2

    def _count_numbers(self, name: str, more: Sequence[float]) -> None:
        count, low, high, total, squares = self.numbers.get(name, [0, more[1], more[2], 0.0, 0.0])
        sums = [min(low, more[1]), max(high, more[2]), total + more[3], squares + more[4]]
        self.numbers[name] = [count + more[0], *sums]

    def ranges(self, names: Sequence[str], source: str, before: Sequence[Attribute] = ()) -> tuple[Attribute, ...]:
        """Return the named attributes with their ranges.

        Args:
            before: attributes of earlier rows, whose ranges are included.

        Raises:
            ValueError: naming the attribute without a value in any row of ``source``.
        """
        ends = {each.name: [each.low, each.high] for each in before}
        for name in names:
            if name not in self.numbers and name not in ends:
                raise ValueError(f"attribute {name!r}: no image of {source} has a value of it; leave it out")
            ends.setdefault(name, []).extend(self.numbers.get(name, [])[1:3])
        return tuple(Attribute(name, min(ends[name]), max(ends[name])) for name in names)

    def add(self, other: "Statistics") -> None:
        """Add the sums of another part."""
        for name in ("rows", "captioned", "captions", "characters", "pixels"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.longest = max(self.longest, other.longest)
        self.labels.update(other.labels)
        self.widths = (min(self.widths[0], other.widths[0]), max(self.widths[1], other.widths[1]))
        self.heights = (min(self.heights[0], other.heights[0]), max(self.heights[1], other.heights[1]))
        self.total, self.squares = self.total + other.total, self.squares + other.squares
        for name, sums in other.numbers.items():
            self._count_numbers(name, sums)

    def to_json(self) -> dict[str, Any]:
        """Return the statistics as JSON values for :meth:`from_json`."""
        plain = {name: getattr(self, name) for name in ("rows", "captioned", "captions", "characters", "longest")}
        arrays = {"total": self.total.tolist(), "squares": self.squares.tolist()}
        sizes = {"widths": list(self.widths), "heights": list(self.heights), "pixels": self.pixels}
        numbers = {"numbers": self.numbers} if self.numbers else {}
        return {**plain, **sizes, **arrays, "labels": dict(self.labels), **numbers}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Statistics":
        """Return the statistics from the JSON values of :meth:`to_json`.

        Raises:
            KeyError, TypeError: if a value is missing or unknown; the caller names the file.
        """
        changed = {
            "labels": Counter(values["labels"]),
            "widths": tuple(values["widths"]),
            "heights": tuple(values["heights"]),
            "total": np.array(values["total"]),
            "squares": np.array(values["squares"]),
        }
        return cls(**{**values, **changed})

    def summary(self, channels: int) -> dict[str, Any]:
        """Return means and extremes for the manifest; pixel moments are of values in [0, 1], by ``channels``."""
        mean = self.total[:channels] / max(1, self.pixels)
        std = np.sqrt(np.maximum(self.squares[:channels] / max(1, self.pixels) - mean**2, 0.0))
        numbers = {
            name: _moments(count, total, squares) for name, (count, _, _, total, squares) in self.numbers.items()
        }
        return {
            **({"attributes": numbers} if numbers else {}),
            "labels": dict(sorted(self.labels.items())),
            "captions": {
                "in_all": self.captions,
                "mean_characters": round(self.characters / max(1, self.captions), 2),
                "longest": self.longest,
            },
            "images": {
                "width": list(self.widths) if self.rows else [0, 0],
                "height": list(self.heights) if self.rows else [0, 0],
                "mean": [round(float(value), 6) for value in mean],
                "std": [round(float(value), 6) for value in std],
            },
        }


def _moments(count: float, total: float, squares: float) -> dict[str, float]:
    """Return number, mean and standard deviation of values from their sums."""
    mean = total / count
    return {"rows": int(count), "mean": mean, "std": max(squares / count - mean**2, 0.0) ** 0.5}
