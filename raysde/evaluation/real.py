"""Measurements of real images, cached by the data's fingerprint, the choice of rows and the feature network."""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors import safe_open
from torch import Tensor

from raysde.data.dataset.manifest import Split
from raysde.evaluation.chunks import MeasuredRange, merge_parts
from raysde.evaluation.features.networks import FeatureNetwork
from raysde.evaluation.metrics.frechet import Moments
from raysde.evaluation.real_data import RealReader, choice_of
from raysde.evaluation.selection import read_images, select_rows, to_image_tensor
from raysde.io.atomic import save_tensors
from raysde.io.filesystems import write_json

FORMAT = 1
KEPT = 10_000
"""Number of features that are kept for the metrics that compare image with image."""


@dataclass(frozen=True)
class RealImages:
    """A choice of real images and the network that measures them.

    Attributes:
        fingerprint: fingerprint of the data.
        split: split that the rows are taken from.
        count: number of random rows; None for all.
        shape: (height, width) to which they are cropped and resized.
        network: hash of the feature network.
        choice: hash of the filters and of the shares of several data sets; empty for all rows of one.
    """

    fingerprint: str
    split: Split
    count: int | None
    shape: tuple[int, int]
    network: str
    choice: str = ""

    @property
    def name(self) -> str:
        """The file name in the cache, without its suffix."""
        words = json.dumps([FORMAT, KEPT, *(value for key, value in asdict(self).items() if key != "choice" or value)])
        return f"reference-{self.fingerprint}-{self.split}-{hashlib.sha256(words.encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class Reference:
    """Moments of the features of all images, and the features [N, D] of the first KEPT."""

    moments: Moments
    features: Tensor


@dataclass(frozen=True)
class Real:
    """The images of a source, and the network that measures them."""

    reader: RealReader
    source: RealImages
    network: FeatureNetwork

    @cached_property
    def rows(self) -> np.ndarray:
        """Row numbers, int64 [N], in random order, so that the first of them represent all.

        Raises:
            ValueError: if the split has no rows.
        """
        rows = select_rows(self.reader, self.source.split, self.source.count)
        return rows[np.random.Generator(np.random.Philox(key=0)).permutation(len(rows))]

    def part(self, first: int, count: int) -> MeasuredRange:
        """Measure the features of ``count`` images from position ``first`` on."""
        rows = np.sort(self.rows[first : first + count])
        return MeasuredRange(
            first, {"features": self.network(to_image_tensor(read_images(self.reader, rows, self.source.shape)))[0]}
        )


def open_real(
    reader: RealReader, split: Split, count: int | None, shape: tuple[int, int], networks: Mapping[str, FeatureNetwork]
) -> dict[str, Real]:
    """Return the real images of a split for each network, by its name.

    Args:
        count: number of random rows; None for all.
        shape: (height, width) to which images are cropped and resized.
    """
    data, choice = reader.manifest.fingerprint, choice_of(reader)
    return {
        name: Real(reader, RealImages(data, split, count, shape, network.hash, choice), network)
        for name, network in networks.items()
    }


class ReferenceSums:
    """A reference that grows by parts: sums over all features and the features of the first KEPT, nothing else."""

    def __init__(self) -> None:
        self.moments: Moments | None = None
        self.kept: list[MeasuredRange] = []

    def add(self, first: int, features: Tensor) -> None:
        """Add the features [B, D] of the images from number ``first`` on."""
        found = Moments.of(features)
        self.moments = found if self.moments is None else self.moments + found
        if first < KEPT:
            self.kept.append(MeasuredRange(first, {"features": features[: KEPT - first]}))

    def finish(self) -> Reference:
        """Return the reference; the last bits of its sums depend on the order of the parts."""
        assert self.moments is not None
        return Reference(self.moments, merge_parts(self.kept)["features"])


def merge_reference(parts: Iterable[MeasuredRange]) -> Reference:
    """Merge parts into a reference; the last bits of its sums depend on the order of the parts."""
    sums = ReferenceSums()
    for part in parts:
        sums.add(part.first, part.values["features"])
    return sums.finish()


def merge_drawn(
    parts: Iterable[MeasuredRange], summed: Collection[str], kept: Collection[str] = ()
) -> tuple[dict[str, Tensor], dict[str, Reference]]:
    """Merge parts of drawn images into values by name, each [N, ...], and references by name.

    Args:
        summed: names of features of which a reference is returned, so that memory does not grow with the images.
        kept: names of values of which the first KEPT images are returned, for the same reason, where there are some.
    """
    sums = {name: ReferenceSums() for name in summed}
    first: dict[str, list[MeasuredRange]] = {name: [] for name in kept}
    rest: list[MeasuredRange] = []
    for part in parts:
        for name, each in sums.items():
            each.add(part.first, part.values[name])
        for name, ranges in first.items():
            if part.first < KEPT and name in part.values:
                ranges.append(MeasuredRange(part.first, {name: part.values[name][: KEPT - part.first]}))
        others = {name: value for name, value in part.values.items() if name not in sums and name not in first}
        if others:
            rest.append(MeasuredRange(part.first, others))
    found = merge_parts(rest) if rest else {}
    for ranges in first.values():
        found |= merge_parts(ranges) if ranges else {}
    return found, {name: each.finish() for name, each in sums.items()}


def open_reference(source: RealImages, cache: Path, parts: Iterable[MeasuredRange]) -> Reference:
    """Return the reference from the cache, or measure it and write it there (safetensors, and JSON that describes it).

    Args:
        parts: measurements of the source's images, consumed only if the cache has no reference.

    Raises:
        OSError: naming the file, if it cannot be written.
    """
    path = cache / f"{source.name}.safetensors"
    if not path.exists():
        found = merge_reference(parts)
        tensors = {"total": found.moments.total, "outer": found.moments.outer, "features": found.features}
        write_json(str(path.with_suffix(".json")), {**asdict(source), "images": found.moments.count})
        save_tensors(path, tensors, {"images": str(found.moments.count)})
    with safe_open(path, "pt") as file:
        total, outer, features = (file.get_tensor(name) for name in ("total", "outer", "features"))
        count = int(file.metadata()["images"])
    return Reference(Moments(count, total, outer), features)
