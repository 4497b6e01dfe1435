"""Distances of images to their nearest training images, and the share of images that lie too close.

The distance of an image is relative (Carlini et al. 2023, arXiv 2301.13188, section 5.2): the distance of its features
to those of the nearest training image, divided by the mean distance to the 50 nearest ones. It lies in [0, 1]. It is
small for a copy, also of an image from a sparse region, and not for every image of a dense region. Features of an image
and of its mirror image are compared, so that a mirrored copy is found.

The threshold is the k-th smallest relative distance of n held-out images, k = floor(0.05 (n + 1)). Images of the same
distribution lie at or below it with a probability of k / (n + 1), because their ranks are exchangeable.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from raysde.evaluation.metrics.precision_recall import row_distances

NEIGHBOURS = 50
"""Number of nearest training images whose mean distance is the unit of an image's distance."""
LEVEL = 0.05
"""Largest share of the calibrating images at or below the threshold."""
LEAST_CALIBRATING = 19
"""Smallest number of calibrating images, of which the threshold is the smallest distance."""
BLOCK = 1024
"""Number of images that are compared with training images at once."""
CHUNK = 4096
"""Number of training images that images are compared with at once."""


@dataclass(frozen=True)
class Nearest:
    """The nearest training images of N images, nearest first.

    Attributes:
        distances: distances of the features, float64 [N, K].
        rows: row numbers of the training images, int64 [N, K].
        mirrored: True where the mirror image is nearer to the training image, bool [N, K].
    """

    distances: Tensor
    rows: Tensor
    mirrored: Tensor

    def merge(self, other: "Nearest", count: int) -> "Nearest":
        """Return the ``count`` nearest of both; of equal distances those of ``self`` come first."""
        distances = torch.cat([self.distances, other.distances], dim=1)
        order = distances.argsort(dim=1, stable=True)[:, :count]
        rows, mirrored = torch.cat([self.rows, other.rows], dim=1), torch.cat([self.mirrored, other.mirrored], dim=1)
        return Nearest(distances.gather(1, order), rows.gather(1, order), mirrored.gather(1, order))

    @property
    def relative(self) -> Tensor:
        """The distance to the nearest training image over the mean of the K distances, [N]; 0 if all are 0."""
        mean = self.distances.mean(dim=1)
        return torch.where(mean > 0.0, self.distances[:, 0] / mean.clamp(min=torch.finfo(mean.dtype).tiny), 0.0)


def find_nearest(
    features: Tensor, mirrored: Tensor, training: Iterable[tuple[Tensor, Tensor]], count: int = NEIGHBOURS
) -> Nearest:
    """Return the ``count`` nearest training images of each image, or all of fewer.

    Memory holds ``CHUNK`` training images at a time, however many there are.

    Args:
        features, mirrored: features of the images and of their mirror images, [N, D].
        training: parts of the training images: features [M, D] and row numbers int64 [M].
    """
    found: Nearest | None = None
    for part, rows in gather_chunks(training):
        blocks = zip(features.split(BLOCK), mirrored.split(BLOCK), strict=True)
        nearest = join([compare(*block, part.double(), rows, count) for block in blocks])
        found = nearest if found is None else found.merge(nearest, count)
    assert found is not None, "there are no training images"
    return found


def gather_chunks(training: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the parts of ``training``, joined to at least CHUNK images where there are so many."""
    waiting: list[tuple[Tensor, Tensor]] = []
    for part in training:
        waiting.append(part)
        if sum(len(rows) for _, rows in waiting) >= CHUNK:
            yield torch.cat([each for each, _ in waiting]), torch.cat([rows for _, rows in waiting])
            waiting = []
    if waiting:
        yield torch.cat([each for each, _ in waiting]), torch.cat([rows for _, rows in waiting])


def compare(features: Tensor, mirrored: Tensor, training: Tensor, rows: Tensor, count: int) -> Nearest:
    """Return the ``count`` nearest of the training images [M, D] for each image, or all M."""
    plain, turned = (row_distances(each.double(), training) for each in (features, mirrored))
    distances, places = torch.minimum(plain, turned).topk(min(count, len(rows)), dim=1, largest=False)
    return Nearest(distances, rows[places], (turned < plain).gather(1, places))


def join(parts: list[Nearest]) -> Nearest:
    """Join the results of consecutive images."""
    joined = (torch.cat([getattr(part, name) for part in parts]) for name in ("distances", "rows", "mirrored"))
    return Nearest(*joined)


@dataclass(frozen=True)
class Threshold:
    """A relative distance at or below which an image counts as memorised.

    Attributes:
        value: the ``rank``-th smallest relative distance of ``count`` held-out images.
    """

    value: float
    rank: int
    count: int

    @classmethod
    def of(cls, relative: Tensor) -> "Threshold":
        """Return the threshold by the relative distances of held-out images, [N], N at least LEAST_CALIBRATING."""
        assert len(relative) >= LEAST_CALIBRATING
        # a rank of 0.05 * 20 must not become 0 by rounding
        rank = math.floor(LEVEL * (len(relative) + 1) + 1e-9)
        return cls(relative.kthvalue(rank).values.item(), rank, len(relative))

    @property
    def expected(self) -> float:
        """The probability that an image of the same distribution lies at or below the threshold."""
        return self.rank / (self.count + 1)

    def band(self, images: int) -> tuple[float, float]:
        """Return the 95% band of the share of ``images`` further images of the same distribution.

        Their number at or below the threshold is beta-binomial with parameters k and n + 1 - k: the share below the
        k-th of n order statistics is Beta(k, n + 1 - k) distributed (David and Nagaraja 2003, "Order statistics").
        """
        k, n, hits = self.rank, self.count, torch.arange(images + 1, dtype=torch.float64)
        first, second = k + hits, n + 1 - k + images - hits
        choose = math.lgamma(images + 1) - torch.lgamma(hits + 1) - torch.lgamma(images - hits + 1)
        beta = torch.lgamma(first) + torch.lgamma(second) - math.lgamma(n + 1 + images)
        total = math.lgamma(k) + math.lgamma(n + 1 - k) - math.lgamma(n + 1)
        below = (choose + beta - total).exp().cumsum(0)
        low, high = (int((below < tail).sum()) for tail in (0.025, 0.975))
        return low / images, min(high, images) / images
