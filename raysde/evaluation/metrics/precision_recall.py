"""Precision and recall by nearest neighbours (Kynkäänniemi et al. 2019, arXiv 1904.06991)."""

import torch
from torch import Tensor

NEIGHBOURS = 3
BLOCK = 1024


def find_covered(features: Tensor, others: Tensor, neighbours: int = NEIGHBOURS) -> Tensor:
    """Return a mask bool [M]: True for rows of ``others`` [M, D] in a ball around a row of ``features`` [N, D], N > k.

    Each ball reaches to the k-th nearest neighbour. Precision is the share of drawn images in the balls of real ones,
    recall the share of real images in the balls of drawn ones.

    Raises:
        ValueError: if there are too few features for their neighbours.
    """
    if len(features) <= neighbours:
        raise ValueError(f"precision and recall need more than {neighbours} images, got {len(features)}; take more")
    features, others = features.double(), others.double()
    radii = torch.cat(
        [row_distances(block, features).kthvalue(neighbours + 1).values for block in features.split(BLOCK)]
    )
    return torch.cat([(row_distances(block, features) <= radii).any(dim=1) for block in others.split(BLOCK)])


def row_distances(first: Tensor, second: Tensor) -> Tensor:
    """Return the distances between rows [N, D] and [M, D] as [N, M], by matrix products."""
    return torch.cdist(first, second, compute_mode="use_mm_for_euclid_dist")
