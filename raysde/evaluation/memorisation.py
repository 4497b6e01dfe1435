"""A report on drawn images that lie closer to training images than held-out images do."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raysde import rng
from raysde.evaluation.chunks import MeasuredRange, merge_parts
from raysde.evaluation.features.networks import FeatureNetwork
from raysde.evaluation.held_out import choose_unseen_rows
from raysde.evaluation.metric import Metric
from raysde.evaluation.metrics.intervals import wilson_interval
from raysde.evaluation.metrics.jackknife import Influence
from raysde.evaluation.metrics.nearest import LEAST_CALIBRATING, NEIGHBOURS, Nearest, Threshold, find_nearest
from raysde.evaluation.real_data import RealReader
from raysde.evaluation.selection import list_rows, read_images, to_image_tensor
from raysde.evaluation.workload import IMAGES, Bench, Measure
from raysde.inference.ranges import split_range
from raysde.io.progress import StageProgress, name_stage

NAME = "memorised"
"""Name of the metric."""
TRAINING, UNSEEN = "training", "unseen"
"""Names of work: the images of the training split, and those of the validation split."""
HELD_OUT = 4_000
"""Largest number of held-out images; one half calibrates the threshold, the other half tests it."""
PAIRS = 16
"""Number of closest pairs that the report shows."""


@dataclass(frozen=True)
class Rows:
    """Rows of a data set in their order, and the network that measures their features.

    Attributes:
        rows: row numbers, int64 [N].
        shape: (height, width) to which images are cropped and resized.
    """

    reader: RealReader
    rows: np.ndarray
    shape: tuple[int, int]
    network: FeatureNetwork

    def images(self, rows: np.ndarray) -> Tensor:
        """Return rows as uint8 images [B, C, H, W]."""
        return to_image_tensor(read_images(self.reader, rows, self.shape))

    def part(self, first: int, count: int) -> MeasuredRange:
        """Measure the features of ``count`` images from position ``first`` on."""
        return MeasuredRange(first, {"features": self.network(self.images(self.rows[first : first + count]))[0]})


class MirroredRows(Rows):
    """Rows whose mirror images are measured too."""

    def part(self, first: int, count: int) -> MeasuredRange:
        """Measure the features of ``count`` images from position ``first`` on, and of their mirror images."""
        images = self.images(self.rows[first : first + count])
        return MeasuredRange(first, {"features": self.network(images)[0], "mirrored": self.network(images.flip(-1))[0]})


def choose_rows(reader: RealReader) -> tuple[np.ndarray, np.ndarray]:
    """Return the row numbers of all training images and of up to HELD_OUT random held-out images, int64 [N] each.

    Raises:
        ValueError: if the data has no validation split, or too few images in a split.
    """
    unseen, training = choose_unseen_rows(reader, HELD_OUT), list_rows(reader, "train")
    if len(unseen) < 2 * LEAST_CALIBRATING:
        raise ValueError(
            f"{NAME}: {len(unseen)} images in the validation split of {reader.manifest.path} are too few, one half "
            f"calibrates the threshold; it needs at least {2 * LEAST_CALIBRATING}: ingest with a larger --validation"
        )
    if len(training) < NEIGHBOURS:
        raise ValueError(
            f"{NAME}: {len(training)} training images at {reader.manifest.path} are too few, it compares with the "
            f"{NEIGHBOURS} nearest ones; leave it out of --metrics"
        )
    return training, unseen


def open_rows(reader: RealReader, shape: tuple[int, int], network: FeatureNetwork) -> dict[str, Rows]:
    """Return the training and the held-out images by the names of their work.

    Args:
        shape: (height, width) of the model's images.

    Raises:
        ValueError: as :func:`choose_rows`.
    """
    training, unseen = choose_rows(reader)
    return {TRAINING: Rows(reader, training, shape, network), UNSEEN: MirroredRows(reader, unseen, shape, network)}


@dataclass(frozen=True)
class Memorisation:
    """Relative distances of drawn and held-out images to their nearest training images.

    Attributes:
        drawn: nearest training images of the drawn images.
        threshold: the threshold, by one half of the held-out images.
        unseen: relative distances of the other half, [N].
        training: number of training images.
    """

    drawn: Nearest
    threshold: Threshold
    unseen: Tensor
    training: int

    @property
    def hits(self) -> Tensor:
        """True for drawn images at or below the threshold, bool [N]."""
        return self.drawn.relative <= self.threshold.value

    @cached_property
    def closest(self) -> list[int]:
        """Numbers of the drawn images with the smallest relative distances, the closest first."""
        return self.drawn.relative.argsort(stable=True)[:PAIRS].tolist()  # type: ignore[no-any-return]

    def figure(self, seed: int, network: str) -> Metric:
        """Return the share of drawn images at or below the threshold, with Wilson's interval given the threshold.

        Args:
            network: hash of the feature network.
        """
        hits, count = int(self.hits.sum()), len(self.hits)
        method = (
            f"share with a relative distance (Carlini et al. 2023) of at most {self.threshold.value:.4g}, as "
            f"{self.threshold.rank} of {self.threshold.count} held-out images; Wilson interval given that threshold"
        )
        influence = Influence({"drawn": self.hits.double()}, {"drawn": count})
        about: dict[str, Any] = {"method": method, "influence": influence, "reference": self.training}
        return Metric(NAME, hits / count, *wilson_interval(hits, count), count, seed, network, **about)

    def dump(self) -> dict[str, Any]:
        """Return the report's entry as JSON values."""
        held = self.unseen <= self.threshold.value
        low, high = wilson_interval(int(held.sum()), len(held))
        share = held.double().mean().item()
        calibrated = {"images": self.threshold.count, "rank": self.threshold.rank, "expected": self.threshold.expected}
        return {
            "threshold": self.threshold.value,
            "neighbours": NEIGHBOURS,
            "training": self.training,
            "calibration": calibrated,
            "held_out": {
                "images": len(held),
                "share": share,
                "low": low,
                "high": high,
                "band": list(self.threshold.band(len(held))),
            },
            "drawn": {
                "images": len(self.hits),
                "share": self.hits.double().mean().item(),
                "band": list(self.threshold.band(len(self.hits))),
            },
            "pairs": [
                {
                    "image": number,
                    "row": self.drawn.rows[number, 0].item(),
                    "mirrored": self.drawn.mirrored[number, 0].item(),
                    "relative": self.drawn.relative[number].item(),
                    "distance": self.drawn.distances[number, 0].item(),
                }
                for number in self.closest
            ],
        }


def measure_memorisation(
    bench: Bench, drawn: Mapping[str, Tensor], seed: int, measure: Measure, progress: StageProgress | None
) -> Memorisation:
    """Find the nearest training images of drawn and of held-out images.

    Args:
        bench: the bench, with the rows of :func:`open_rows`.
        drawn: ``features`` of the drawn images, [N, D], and ``mirrored``, those of the mirror images of the first.
        seed: seed of the choice of the calibrating half.
    """
    training, unseen = bench.others[TRAINING], bench.others[UNSEEN]
    assert isinstance(training, Rows)
    assert isinstance(unseen, Rows)
    held = merge_parts(
        measure(bench, UNSEEN, split_range(len(unseen.rows)), name_stage(progress, "reading held-out images"))
    )
    parts = measure(bench, TRAINING, split_range(len(training.rows)), name_stage(progress, "reading training images"))
    count = len(drawn["mirrored"])
    plain, turned = (torch.cat([drawn[name][:count], held[name]]) for name in ("features", "mirrored"))
    found = find_nearest(plain, turned, number_rows(parts, training.rows))
    nearest = Nearest(*(value[:count] for value in (found.distances, found.rows, found.mirrored)))
    relative = found.relative[count:]
    order = torch.randperm(len(relative), generator=rng.generator(seed, rng.EVALUATION, 5))
    half = len(relative) // 2
    threshold = Threshold.of(relative[order[:half]])
    return Memorisation(nearest, threshold, relative[order[half:]], len(training.rows))


def number_rows(parts: Iterable[MeasuredRange], rows: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the features [B, D] and the row numbers int64 [B] of each part; ``rows`` are those of all parts."""
    for part in parts:
        yield part.values["features"], torch.from_numpy(rows[part.first : part.first + part.count])


@dataclass(frozen=True)
class Pairs:
    """Drawn images and their nearest training images, the closest pair first.

    Attributes:
        images: drawn and training images in turn, uint8 [2 N, C, H, W].
        captions: caption of each image.
    """

    images: Tensor
    captions: list[str]


def show_pairs(found: Memorisation, bench: Bench, measure: Measure) -> Pairs:
    """Draw the closest images again and read their nearest training images."""
    training = bench.others[TRAINING]
    assert isinstance(training, Rows)
    drawn = [part.values["images"] for part in measure(bench, IMAGES, [(n, 1) for n in found.closest], None)]
    nearest = found.drawn.rows[found.closest, 0].numpy()
    images = torch.stack([torch.cat(drawn), training.images(nearest)], dim=1).flatten(0, 1)
    captions = []
    for number, row in zip(found.closest, nearest.tolist(), strict=True):
        turned = ", mirrored" if found.drawn.mirrored[number, 0] else ""
        captions += [f"sample {number}: {found.drawn.relative[number]:.2f}", f"row {row}{turned}"]
    return Pairs(images, captions)
