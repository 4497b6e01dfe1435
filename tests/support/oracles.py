"""Exact answers: Gaussians and Gaussian mixtures under any linear SDE, and the four-standard-error rule."""

import unittest.mock
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from raysde.sampling.sampler import sample
from raysde.sde import (
    EDM,
    SDE,
    VE,
    VP,
    Flow,
    SubVP,
    expand,
)

# DDPM's discrete process: beta from 1e-4 to 0.02 in 1000 steps (Ho et al. 2020)
DDPM_TABLE = tuple((1.0 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0).tolist())

TIMES = torch.tensor([1e-5, 1e-4, 1e-3, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1.0], dtype=torch.float64)
SDES: dict[str, SDE] = {
    "vp": VP(),
    "vp_cosine": VP(schedule="cosine"),
    "vp_table": VP(schedule="table", alphas_cumprod=DDPM_TABLE),
    "sub_vp": SubVP(),
    "sub_vp_cosine": SubVP(schedule="cosine"),
    "ve": VE(),
    "edm": EDM(),
    "flow": Flow(),
}


@dataclass(frozen=True)
class Mixture:
    """A Gaussian mixture with weights [K], means [K, D] and covariances [K, D, D]."""

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
        """Return the distribution of alpha x0 + sigma eps for scalar or [B] alpha and sigma."""
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
        """Return the exact score(x_t [B, D], t [B]), in the components' eigenbases and in log space."""
        spread, basis = torch.linalg.eigh(self.covariances)

        def exact(x: Tensor, t: Tensor) -> Tensor:
            # samplers call with one time for all rows
            one = t[:1] if len(t) and bool((t == t[0]).all()) else t
            alpha, sigma = (value[:, None] for value in sde.marginal(one.double()))
            logs, pulls = [], []
            for k in range(len(self.weights)):
                precision = 1.0 / (alpha**2 * spread[k] + sigma**2)
                y = (x.double() - alpha * self.means[k]) @ basis[k]
                scaled = y * precision
                pulls.append(scaled @ basis[k].T)
                if len(self.weights) > 1:
                    logs.append(self.weights[k].log() + 0.5 * (precision.log() - scaled * y).sum(-1))
            if not logs:
                return -pulls[0].to(x.dtype)
            shares = torch.stack(logs, dim=1).softmax(dim=1)
            return -sum(shares[:, k, None] * pull for k, pull in enumerate(pulls)).to(x.dtype)

        return exact

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        chosen = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        z = torch.randn(count, self.means.shape[1], dtype=self.means.dtype, generator=generator)
        return self.means[chosen] + torch.einsum("bij,bj->bi", torch.linalg.cholesky(self.covariances)[chosen], z)


def gaussian() -> Mixture:
    """Return a correlated 2-D Gaussian."""
    covariance = torch.tensor([[0.30, 0.12], [0.12, 0.20]], dtype=torch.float64)
    return Mixture(
        torch.ones(1, dtype=torch.float64), torch.tensor([[0.7, -0.4]], dtype=torch.float64), covariance[None]
    )


def mixture() -> Mixture:
    """Return a mixture of three unequal components in 2-D."""
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    means = torch.tensor([[1.0, 0.5], [-1.0, 0.8], [0.2, -1.2]], dtype=torch.float64)
    scales = torch.tensor([0.15, 0.10, 0.20], dtype=torch.float64)
    return Mixture(weights, means, scales[:, None, None] ** 2 * torch.eye(2, dtype=torch.float64))


def gaussian_score(mean: float, std: float, sde: SDE):
    """Return the exact score for data of any shape with coordinates N(mean, std^2)."""

    def exact(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (expand(value, x) for value in sde.marginal(t))
        return -(x - alpha * mean) / (alpha**2 * std**2 + sigma**2)

    return exact


def assert_moments(x: Tensor, mean: Tensor, covariance: Tensor, bias: float = 0.0) -> None:
    """Assert that mean and covariance of samples x [N, D] agree with the exact ones to four standard errors plus
    ``bias``.

    The standard error of a covariance entry comes from the samples' fourth moments.
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


SETTINGS: dict[str, dict] = {
    "euler_maruyama": {"solver": "euler_maruyama", "steps": 400},
    "reverse_diffusion": {"solver": "reverse_diffusion", "steps": 400},
    "ancestral": {"solver": "ancestral", "steps": 400},
    "pc": {"solver": "pc", "steps": 200, "target_snr": 0.05},
    "annealed": {"solver": "ancestral", "corrector": "annealed_langevin", "steps": 250, "target_snr": 0.05},
    "corrector_only": {"solver": "none", "corrector": "annealed_langevin", "steps": 250, "corrector_steps": 4,
                       "target_snr": 0.35},
    "euler": {"solver": "euler", "steps": 400},
    "heun": {"solver": "heun", "steps": 60},
    "rk4": {"solver": "rk4", "steps": 30},
    "rk45": {"solver": "rk45"},
    "edm": {"solver": "edm", "steps": 60},
    "edm_churn": {"solver": "edm", "steps": 100, "churn": 20.0},
    "ddim": {"solver": "ddim", "steps": 400},
    "ddim_half": {"solver": "ddim", "steps": 400, "eta": 0.5},
    "dpmpp_2m": {"solver": "dpmpp_2m", "steps": 60},
    "dpmpp_3m": {"solver": "dpmpp_3m", "steps": 40},
    "dpmpp_2m_sde": {"solver": "dpmpp_2m_sde", "steps": 200},
    "dpmpp_3m_sde": {"solver": "dpmpp_3m_sde", "steps": 100},
    "deis": {"solver": "deis", "steps": 40},
    "unipc": {"solver": "unipc", "steps": 30},
}  # fmt: skip
"""Settings of every solver, with a number of steps at which its bias on smooth data is below 1%."""

BIAS = {"corrector_only": 0.03}
"""Allowed bias on a Gaussian for cases that need more than 1%: Langevin steps alone mix slowly."""

FLOWS = {"euler": 1, "ddim": 1, "heun": 2, "edm": 2, "dpmpp_2m": 2, "dpmpp_3m": 3, "deis": 3, "rk4": 4, "unipc": 4}
"""Orders of the deterministic solvers; UniPC of order 3 with its corrector has order 4 (Zhao et al. theorem 3.1)."""


def exact_flow(sde: SDE, z: Tensor, mean: float, std: float) -> Tensor:
    """Return the exact end of the probability flow from z at the ceiling to the sample floor, for data N(mean,
    std^2)."""
    alpha, sigma = sde.marginal(torch.tensor([sde.ceiling, sde.sample_floor], dtype=torch.float64))
    spread = torch.sqrt((alpha * std) ** 2 + sigma**2)
    return alpha[1] * mean + spread[1] / spread[0] * (z - alpha[0] * mean)


@lru_cache(maxsize=64)
def flow_end(sde: SDE, solver: str, steps: int) -> Tensor:
    """Return the end [24, 2] of a solver's flow of the mixture from 24 points of the prior."""
    z = sde.prior((24, 2), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    score = mixture().score(sde)
    return sample(score, sde, z.shape, solver=solver, steps=steps, start=z, dtype=torch.float64, grid="log_snr").x


def fitted_order(sde: SDE, case: str) -> float:
    """Return the order of a flow on the mixture: the slope of log error against log steps, by least squares."""
    counts = {"dpmpp_3m": (320, 480, 640), "deis": (320, 480, 640), "rk4": (100, 140, 200), "unipc": (640, 900, 1200)}
    counts = counts.get(case, (160, 320, 640))
    exact = flow_end(sde, "rk4", 1600)
    ends = [flow_end(sde, SETTINGS[case]["solver"], steps) for steps in counts]
    errors = [(end - exact).square().mean().sqrt().log() for end in ends]
    x = torch.tensor(counts, dtype=torch.float64).log()
    y = torch.stack(errors)
    return -((x - x.mean()) @ (y - y.mean()) / (x - x.mean()).square().sum()).item()


def normal_std(sde: SDE, **settings) -> float:
    """Return the standard deviation of samples of a standard normal with its exact score, without sampling error.

    Every solver except correctors maps x and its noises linearly. The result is therefore the norm of the coefficients
    of independent noises: the k-th noise alone drives row k of a batch.
    """
    most = 2 * settings["steps"] + 2
    drawn = iter(range(1, most))

    def basis(x: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(torch.tensor(next(drawn)), most).to(x)[:, None]

    start = sde.prior_std * torch.nn.functional.one_hot(torch.tensor(0), most).double()[:, None]
    with unittest.mock.patch("raysde.sampling.sampler.noise_from", return_value=basis):
        x = sample(gaussian_score(0.0, 1.0, sde), sde, start.shape, start=start, dtype=torch.float64, **settings).x
    return x.norm().item()
