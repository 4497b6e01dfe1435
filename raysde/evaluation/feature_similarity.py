"""Cosine similarity of the features of pairs of rows, which confirms near duplicates."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raysde.data.dataset.reader import Reader
from raysde.evaluation.features.networks import BATCH, FeatureNetwork
from raysde.evaluation.selection import read_images, to_image_tensor

SIMILAR = 0.9
"""Default cosine of the features of two copies."""
LOOKED_AT = 224
"""Height and width in pixels at which images of different sizes are compared."""


@dataclass(frozen=True)
class FeatureSimilarity:
    """A test of pairs of rows by the cosine of the angle between their features.

    Attributes:
        network: feature network.
        least: smallest cosine of two copies, in (0, 1].

    Raises:
        ValueError: if ``least`` is out of range.
    """

    reader: Reader
    network: FeatureNetwork
    least: float = SIMILAR

    def __post_init__(self) -> None:
        if not 0.0 < self.least <= 1.0:
            raise ValueError(
                f"--feature-similarity must be above 0 and at most 1, got {self.least:g}; {SIMILAR:g} is the default"
            )

    def __call__(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return True, bool [P], for each pair of row numbers int64 [P] with features at least that similar.

        Raises:
            ValueError: if a row cannot be read, or the network does not take its channels.
        """
        rows, places = np.unique(np.concatenate([first, second]), return_inverse=True)
        features = torch.cat([self._features(rows[start : start + BATCH]) for start in range(0, len(rows), BATCH)])
        one, two = torch.from_numpy(places).chunk(2)
        cosines = (features[one] * features[two]).sum(dim=1)
        return np.asarray((cosines >= self.least - 1e-6).numpy())

    def _features(self, rows: np.ndarray) -> Tensor:
        """Return features of unit length, float32 [N, D]."""
        shape = self.reader.manifest.size or (LOOKED_AT, LOOKED_AT)
        features = self.network(to_image_tensor(read_images(self.reader, rows, shape)))[0]
        return features / features.norm(dim=1, keepdim=True).clamp_min(1e-12)
