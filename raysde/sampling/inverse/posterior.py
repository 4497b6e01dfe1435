"""The posterior score given a measurement y = H x0 + noise, from the score of all images.

grad log p_t(x_t | y) = grad log p_t(x_t) + grad log p_t(y | x_t). If p(x0 | x_t) is approximated by the Gaussian with
Tweedie's mean m and covariance V = sigma^2 / alpha dm/dx_t, the second term is (dm/dx_t)^T H^T (noise^2 + H V H^T)^-1
(y - H m): "moment matching posterior sampling" (Rozet et al. 2024, arXiv 2405.13712, section 4.2), exact for Gaussians.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from raysde.sampling.inverse.operators import Projection
from raysde.sde import SDE, Score
from raysde.sde.parameterisation import marginal_for

ITERATIONS = 3
"""Default number of conjugate-gradient iterations."""


@dataclass(frozen=True)
class MomentMatching:
    """The posterior score(x_t, t) given a measurement y.

    One call evaluates the prior score once and takes one vector-Jacobian product per iteration, plus one. These
    products use the transpose of the network's Jacobian, which is only nearly symmetric, in place of the Jacobian.

    Attributes:
        prior: the score of all images, differentiable in x_t.
        sde: forward process of the score.
        known: the measurement y, [B, ...].
        projection: the map H that gives measurements of images.
        noise: standard deviation of y's noise, in units of the data.
        iterations: number of conjugate-gradient iterations, which solve a linear system per image.

    Raises:
        ValueError: if ``noise`` is negative or ``iterations`` is below 1.
    """

    prior: Score
    sde: SDE
    known: Tensor
    projection: Projection
    noise: float = 0.0
    iterations: int = ITERATIONS

    def __post_init__(self) -> None:
        if self.noise < 0.0:
            raise ValueError(f"noise must not be negative, got {self.noise}")
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {self.iterations}")

    @torch.enable_grad()
    def score(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return grad log p_t(x_t | y) for x_t [B, ...] and t [B], of the shape of x_t."""
        x = x_t.detach().requires_grad_()
        alpha, sigma = marginal_for(self.sde, t, x)
        score = self.prior(x, t)
        mean = (x + sigma.square() * score) / alpha

        def product(y: Tensor) -> Tensor:
            return torch.autograd.grad(mean, x, self.projection.transpose(y), retain_graph=True)[0]

        # rounding error of V, below which the system would be singular
        floor = 10.0 * torch.finfo(x.dtype).eps * self.projection.scale * (sigma / alpha).square()

        def covariance(y: Tensor) -> Tensor:
            return (self.noise**2 + floor) * y + self.projection.measure(sigma.square() / alpha * product(y))

        missing = self.known - self.projection.measure(mean.detach())
        solved = conjugate_gradients(covariance, missing, self.iterations)
        return score.detach() + product(solved)


def conjugate_gradients(apply: Callable[[Tensor], Tensor], target: Tensor, iterations: int) -> Tensor:
    """Solve ``apply(y)`` = target [B, ...] for y, of the same shape, by at most ``iterations`` steps.

    ``apply`` is linear and positive definite on each row. A row stops early at a residual of rounding size or a
    curvature <= 0 (Hestenes and Stiefel 1952).
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).flatten(1).sum(dim=1).reshape(-1, *(1,) * (a.ndim - 1))

    y, residual, direction = torch.zeros_like(target), target, target
    size = dot(residual, residual)
    enough = (10.0 * torch.finfo(target.dtype).eps) ** 2 * size
    going = size > enough
    for _ in range(iterations):
        image = apply(direction)
        curvature = dot(direction, image)
        going = going & (size > enough) & (curvature > 0.0)
        if not going.any():
            break
        step = torch.where(going, size / curvature, torch.zeros_like(size))
        y, residual = y + step * direction, residual - step * image
        new = dot(residual, residual)
        direction = residual + torch.where(going, new / size, torch.zeros_like(size)) * direction
        size = new
    return y
