"""The kernel inception distance: the squared maximum mean discrepancy of a cubic kernel (Bińkowski et al. 2018)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from raysde.evaluation.metrics.jackknife import Influence

SUBSETS = 100
SIZE = 1000
BLOCK = 1024

Kernel = Callable[[Tensor, Tensor], Tensor]
"""``kernel(first, second)``: kernels of the rows of two matrices [N, D] and [M, D], float64 [N, M]."""


@dataclass(frozen=True)
class Discrepancy:
    """The mean over subsets, their standard deviation, the influences on the mean, and the size of a subset.

    Attributes:
        value, spread: KID, and the standard deviation over subsets.
        influence: influence of each image on ``value``.
        size: number of images in a subset.
    """

    value: float
    spread: float
    influence: Influence
    size: int


def polynomial_kernel(first: Tensor, second: Tensor) -> Tensor:
    """Return (x.y / D + 1)^3 for the rows of two matrices [N, D] and [M, D], float64 [N, M]."""
    return ((first @ second.T).double() / first.shape[1] + 1.0) ** 3


def unbiased_discrepancy(first: Tensor, second: Tensor) -> Tensor:
    """Return the unbiased estimate of the squared discrepancy between two sets of features [N, D], a float64 scalar."""
    n = len(first)
    own = sum(
        (each.sum() - each.diagonal().sum()) / (n * (n - 1))
        for each in map(polynomial_kernel, (first, second), (first, second))
    )
    return own - 2.0 * polynomial_kernel(first, second).mean()


def kernel_discrepancy(
    real: Tensor, drawn: Tensor, generator: torch.Generator, *, subsets: int = SUBSETS, size: int = SIZE
) -> Discrepancy:
    """Compute torchmetrics' KID: the mean of the unbiased estimate over random subsets of features [M, D] and [N, D].

    Its variance has two parts: the variance over subsets given the images, and the variance of the estimate from all
    images, by the jackknife over each set (Arvesen 1969).

    Args:
        subsets, size: number of subsets, and of images in each; at most M and N.
    """
    size = min(size, len(real), len(drawn))
    values = []
    for _ in range(subsets):
        first = real[torch.randperm(len(real), generator=generator)[:size]]
        second = drawn[torch.randperm(len(drawn), generator=generator)[:size]]
        values.append(unbiased_discrepancy(first, second))
    found = torch.stack(values)
    spread = found.std(correction=0).item()
    own = jackknife_influences(real, drawn)
    influence = Influence({**own.values, "subsets": found}, {**own.counts, "subsets": subsets})
    return Discrepancy(found.mean().item(), spread, influence, size)


def jackknife_influences(real: Tensor, drawn: Tensor) -> Influence:
    """Compute the leave-one-out influences of images with features [M, D] and [N, D] on the unbiased estimate."""
    return Influence(
        {
            "drawn": leave_one_out(
                kernel_sums(drawn, drawn) - kernel_diagonal(drawn), kernel_sums(drawn, real), len(real)
            ),
            "real": leave_one_out(
                kernel_sums(real, real) - kernel_diagonal(real), kernel_sums(real, drawn), len(drawn)
            ),
        },
        {"drawn": len(drawn), "real": len(real)},
    )


def leave_one_out(own: Tensor, cross: Tensor, others: int) -> Tensor:
    """Return the jackknife influences of one set, [N]: n - 1 times the change when each image is left out.

    Args:
        own: sum of each image's kernels with the others of its set, [N].
        cross: sum of each image's kernels with the other set, [N].
        others: size of the other set.
    """
    n = len(own)
    without = (own.sum() - 2.0 * own) / ((n - 1) * (n - 2)) - 2.0 * (cross.sum() - cross) / (others * (n - 1))
    return (n - 1) * (without.mean() - without)


def kernel_sums(first: Tensor, second: Tensor, kernel: Kernel = polynomial_kernel) -> Tensor:
    """Return the sum of the kernels of each row of ``first`` with all rows of ``second``, [N]."""
    parts = [[kernel(block, other).sum(dim=1) for other in second.split(BLOCK)] for block in first.split(BLOCK)]
    return torch.cat([torch.stack(part).sum(dim=0) for part in parts])


def kernel_diagonal(features: Tensor) -> Tensor:
    """Return the kernel of each row of features [N, D] with itself, float64 [N]."""
    return (features.double().square().sum(dim=1) / features.shape[1] + 1.0) ** 3
