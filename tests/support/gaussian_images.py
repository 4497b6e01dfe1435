"""Gaussian images, projections of them, and the exact conditional distribution given a projection."""

import dataclasses
import math

import torch

from raysde.sampling.inverse.operators import AveragePool, Chain, Grey, Mask

SHAPE = (3, 2, 2)

SIZE = math.prod(SHAPE)

HOLE = torch.tensor([[True, False], [False, True]])

PROJECTIONS = {
    "mask": Mask(HOLE),
    "grey": Grey(3),
    "pool": AveragePool(2),
    "grey pool": Chain(Grey(3), AveragePool(2)),
    "some means": Chain(AveragePool(2), Mask(torch.tensor([True, False, True])[:, None, None])),
}


def matrix(projection, shape=SHAPE) -> torch.Tensor:
    """Return a projection H as a matrix [measurements, values]."""
    basis = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    return projection.measure(basis).flatten(1).T


@dataclasses.dataclass(frozen=True)
class Images:
    """A Gaussian distribution of images: mean [D] and covariance [D, D] of their values."""

    mean: torch.Tensor
    covariance: torch.Tensor
    shape: tuple[int, ...]

    def score(self, sde):
        """Return the exact score(x_t [B, *shape], t [B]), differentiable."""
        spread, basis = torch.linalg.eigh(self.covariance)
        mean, spread, basis = (value.double() for value in (self.mean, spread, basis))

        def exact(x, t):
            alpha, sigma = (value[:, None] for value in sde.marginal(t))
            y = (x.flatten(1) - alpha * mean) @ basis
            return -((y / (alpha**2 * spread + sigma**2)) @ basis.T).reshape(x.shape)

        return exact

    def given(self, projection, y, noise=0.0) -> "Images":
        """Return the conditional distribution given one measurement y = H x + noise, by the formula for Gaussians."""
        h = matrix(projection, self.shape)
        inner = h @ self.covariance @ h.T + noise**2 * torch.eye(len(h), dtype=torch.float64)
        gain = self.covariance @ h.T @ torch.linalg.pinv(inner, hermitian=True)
        mean = self.mean + gain @ (y.flatten() - h @ self.mean)
        return Images(mean, self.covariance - gain @ h @ self.covariance, self.shape)

    def draw(self, count, seed=0) -> torch.Tensor:
        z = torch.randn(count, len(self.mean), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        return (self.mean + z @ torch.linalg.cholesky(self.covariance).T).reshape(count, *self.shape)


def correlated(shape=SHAPE, seed=0) -> Images:
    g, size = torch.Generator().manual_seed(seed), math.prod(shape)
    mix = torch.randn(size, size, dtype=torch.float64, generator=g) / math.sqrt(size)
    mean = 0.5 * torch.randn(size, dtype=torch.float64, generator=g)
    return Images(mean, 0.25 * (mix @ mix.T) + 0.02 * torch.eye(size, dtype=torch.float64), shape)
