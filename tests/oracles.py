"""Exact answers: Gaussians and Gaussian mixtures under any linear SDE, and the four-standard-error rule."""

from dataclasses import dataclass

import torch
from torch import Tensor

from raysde.sde import SDE, VE, VP, SubVP, expand

SDES: dict[str, SDE] = {
    "vp": VP(),
    "vp_cosine": VP(schedule="cosine"),
    "sub_vp": SubVP(),
    "sub_vp_cosine": SubVP(schedule="cosine"),
    "ve": VE(),
}


@dataclass(frozen=True)
class Mixture:
    """Components with weights [K], means [K, D] and covariances [K, D, D]."""

    weights: Tensor
    means: Tensor
    covariances: Tensor

    @property
    def mean(self) -> Tensor:
        return self.weights @ self.means

    @property
    def covariance(self) -> Tensor:
        centred = self.means - self.mean
        within = torch.einsum("k,kij->ij", self.weights, self.covariances)
        return within + torch.einsum("k,ki,kj->ij", self.weights, centred, centred)

    def at(self, alpha: Tensor, sigma: Tensor) -> torch.distributions.Distribution:
        """The distribution of alpha x0 + sigma eps for scalar or [B] alpha and sigma."""
        eye = torch.eye(self.means.shape[1], dtype=self.means.dtype)
        alpha, sigma = alpha[..., None], sigma[..., None]
        means = alpha[..., None] * self.means
        covariances = alpha[..., None, None] ** 2 * self.covariances + sigma[..., None, None] ** 2 * eye
        weights = self.weights.expand(means.shape[:-1])
        return torch.distributions.MixtureSameFamily(
            torch.distributions.Categorical(weights), torch.distributions.MultivariateNormal(means, covariances)
        )

    def log_prob(self, x: Tensor, t: Tensor, sde: SDE) -> Tensor:
        alpha, sigma = sde.marginal(t.double())
        return self.at(alpha, sigma).log_prob(x.double())

    def score(self, sde: SDE):
        """score(x_t, t) in closed form, in the components' eigenbases and in log space."""
        spread, basis = torch.linalg.eigh(self.covariances)

        def exact(x: Tensor, t: Tensor) -> Tensor:
            alpha, sigma = (value[:, None, None] for value in sde.marginal(t.double()))
            y = torch.einsum("kij,bki->bkj", basis, x.double()[:, None] - alpha * self.means)
            precision = 1.0 / (alpha**2 * spread + sigma**2)
            log = self.weights.log() - 0.5 * (y**2 * precision).sum(-1) + 0.5 * precision.log().sum(-1)
            pulls = torch.einsum("kij,bkj->bki", basis, y * precision)
            return -torch.einsum("bk,bki->bi", log.softmax(dim=1), pulls).to(x.dtype)

        return exact

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        chosen = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        z = torch.randn(count, self.means.shape[1], dtype=self.means.dtype, generator=generator)
        return self.means[chosen] + torch.einsum("bij,bj->bi", torch.linalg.cholesky(self.covariances)[chosen], z)


def gaussian() -> Mixture:
    """A correlated 2-D Gaussian."""
    covariance = torch.tensor([[0.30, 0.12], [0.12, 0.20]], dtype=torch.float64)
    return Mixture(
        torch.ones(1, dtype=torch.float64), torch.tensor([[0.7, -0.4]], dtype=torch.float64), covariance[None]
    )


def mixture() -> Mixture:
    """Three unequal components in 2-D."""
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    means = torch.tensor([[1.0, 0.5], [-1.0, 0.8], [0.2, -1.2]], dtype=torch.float64)
    scales = torch.tensor([0.15, 0.10, 0.20], dtype=torch.float64)
    return Mixture(weights, means, scales[:, None, None] ** 2 * torch.eye(2, dtype=torch.float64))


def gaussian_score(mean: float, std: float, sde: SDE):
    """The score when every coordinate of the data is N(mean, std^2), in closed form and any shape."""

    def exact(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (expand(value, x) for value in sde.marginal(t))
        return -(x - alpha * mean) / (alpha**2 * std**2 + sigma**2)

    return exact


def assert_moments(x: Tensor, mean: Tensor, covariance: Tensor, bias: float = 0.0) -> None:
    """The sample's mean and covariance agree with the exact ones to four standard errors plus a stated bias.

    The standard error of a covariance entry comes from the sample's own fourth moments.
    """
    x = x.double()
    count = len(x)
    error = (x.mean(dim=0) - mean).abs()
    allowed = 4.0 * x.std(dim=0) / count**0.5 + bias
    assert (error <= allowed).all(), f"mean off by {error.tolist()}, allowed {allowed.tolist()}"
    centred = x - mean
    products = torch.einsum("bi,bj->bij", centred, centred)
    error = (products.mean(dim=0) - covariance).abs()
    allowed = 4.0 * products.std(dim=0) / count**0.5 + bias
    assert (error <= allowed).all(), f"covariance off by {error.tolist()}, allowed {allowed.tolist()}"
