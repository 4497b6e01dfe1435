"""CMMD: the squared maximum mean discrepancy of CLIP's image embeddings (Jayasumana et al. 2024, arXiv 2401.09603).

With embeddings x of N drawn and y of M real images, each divided by its length, and the kernel
k(a, b) = exp(-|a - b|^2 / (2 sigma^2)), the unbiased estimate (Gretton et al. 2012, equation 3) is

    CMMD = 1000 (sum_{i != j} k(x_i, x_j) / (N (N - 1)) + sum_{i != j} k(y_i, y_j) / (M (M - 1))
                 - 2 sum_{i, j} k(x_i, y_j) / (N M)),    sigma = 10.

The paper's program also counts each image with itself. Its values are higher by 1000 ((1 - k_x) / N + (1 - k_y) / M),
where k_x and k_y are the means over different images of each set: at most 20 (1 / N + 1 / M).
"""

import torch
from torch import Tensor

from raysde.evaluation.metrics.jackknife import Influence
from raysde.evaluation.metrics.kernel import kernel_sums, leave_one_out

SIGMA, SCALE = 10.0, 1000.0


def clip_discrepancy(real: Tensor, drawn: Tensor) -> tuple[float, Influence]:
    """Compute CMMD from embeddings [M, D] and [N, D], M and N at least 3, with its leave-one-out influences."""
    real, drawn = unit_rows(real), unit_rows(drawn)
    m, n = len(real), len(drawn)
    own, other = kernel_sums(drawn, drawn, kernel_less_one), kernel_sums(real, real, kernel_less_one)
    cross, back = kernel_sums(drawn, real, kernel_less_one), kernel_sums(real, drawn, kernel_less_one)
    value = own.sum() / (n * (n - 1)) + other.sum() / (m * (m - 1)) - 2.0 * cross.sum() / (n * m)
    influences = {"drawn": SCALE * leave_one_out(own, cross, m), "real": SCALE * leave_one_out(other, back, n)}
    return SCALE * value.item(), Influence(influences, {"drawn": n, "real": m})


def unit_rows(features: Tensor) -> Tensor:
    """Return the rows of features [N, D] divided by their lengths, float64."""
    return torch.nn.functional.normalize(features.double(), dim=1)


def kernel_less_one(first: Tensor, second: Tensor) -> Tensor:
    """Return exp(-|x - y|^2 / (2 sigma^2)) - 1 for unit rows [N, D] and [M, D], float64 [N, M].

    The kernel lies in [0.98, 1]. Without the 1, which cancels in the discrepancy, no digits are lost, and the kernel of
    an image with itself is 0.
    """
    return torch.expm1((first @ second.T - 1.0).clamp(max=0.0) / SIGMA**2)
