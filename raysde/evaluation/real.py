"""What is measured of real images, once: kept by the data's fingerprint, the rows and the feature network."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors import safe_open
from torch import Tensor

from raysde.data.dataset.manifest import Split
from raysde.data.dataset.reader import Reader
from raysde.evaluation.chunks import MeasuredRange, merge_parts
from raysde.evaluation.features.networks import FeatureNetwork
from raysde.evaluation.metrics.frechet import Moments
from raysde.evaluation.selection import read_images, select_rows, to_image_tensor
from raysde.io.atomic import save_tensors
from raysde.io.filesystems import write_json

FORMAT = 1
KEPT = 10_000
"""Features that are kept, for what compares image with image."""


@dataclass(frozen=True)
class RealImages:
    """Which real images are meant, and what they are measured by.

    Attributes:
        fingerprint: of the data.
        split: whose rows.
        count: random rows of them, None for all.
        shape: (height, width) at which they are shown.
        network: hash of the feature network.
    """

    fingerprint: str
    split: Split
    count: int | None
    shape: tuple[int, int]
    network: str

    @property
    def name(self) -> str:
        """The stem of its files."""
        words = json.dumps([FORMAT, KEPT, *asdict(self).values()])
        return f"reference-{self.fingerprint}-{self.split}-{hashlib.sha256(words.encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class Reference:
    """Moments of all the images' features, and the features [N, D] of the first KEPT."""

    moments: Moments
    features: Tensor


@dataclass(frozen=True)
class Real:
    """The images of a source, and the network that sees them."""

    reader: Reader
    source: RealImages
    network: FeatureNetwork

    @cached_property
    def rows(self) -> np.ndarray:
        """Their numbers, in an order that has nothing to do with theirs, so that the first of them stand for all."""
        rows = select_rows(self.reader.manifest, self.source.split, self.source.count)
        return rows[np.random.Generator(np.random.Philox(key=0)).permutation(len(rows))]

    def part(self, first: int, count: int) -> MeasuredRange:
        """The features of the images ``first`` and on."""
        rows = np.sort(self.rows[first : first + count])
        return MeasuredRange(
            first, {"features": self.network(to_image_tensor(read_images(self.reader, rows, self.source.shape)))[0]}
        )


def merge_reference(parts: Iterable[MeasuredRange]) -> Reference:
    """A reference of its parts; the last bits of the sums are those of the order in which they come."""
    moments: Moments | None = None
    kept: list[MeasuredRange] = []
    for part in parts:
        features = part.values["features"]
        found = Moments.of(features)
        moments = found if moments is None else moments + found
        if part.first < KEPT:
            kept.append(MeasuredRange(part.first, {"features": features[: KEPT - part.first]}))
    assert moments is not None
    return Reference(moments, merge_parts(kept)["features"])


def open_reference(source: RealImages, cache: Path, parts: Iterable[MeasuredRange]) -> Reference:
    """The reference, from the cache or collected now and left there (safetensors, and JSON that says what it is).

    Args:
        parts: of the source's images, which are asked for only if the cache has none.
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
