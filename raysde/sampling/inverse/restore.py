"""Images that agree with a measurement, and variations of given images, with any score, SDE and solver.

``edit`` draws from p(x0 | H x0 = y) by one of two methods:

``moment_matching``  replaces the score by that of p(x_t | y), see :mod:`raysde.sampling.inverse.posterior`; exact for
                     Gaussian data with any solver, and preferable wherever the score is differentiable.
``replacement``      replaces the known part of x after every step by the known data, noised to the current time
                     (Song et al. 2021, appendix I). The rest of x is not drawn given the known part, so this is exact
                     only where the two are independent; ``resample`` reduces the error. It costs no evaluations.

``sdedit`` starts from a noised image instead of pure noise.
"""

from dataclasses import dataclass
from typing import Literal, Unpack

import torch
from torch import Tensor

from raysde.io.keywords import own_keywords
from raysde.rng import Noise, RandomSource, noise_from
from raysde.sampling.inverse.operators import Projection, replace_measurement
from raysde.sampling.inverse.posterior import ITERATIONS, MomentMatching
from raysde.sampling.method import Method, Settings, drop_grid_settings
from raysde.sampling.sampler import Callback, Samples, sample
from raysde.sampling.score import check_score_values
from raysde.sde import SDE, Score

Way = Literal["moment_matching", "replacement"]
WAYS: tuple[Way, ...] = ("moment_matching", "replacement")


@dataclass(frozen=True)
class Replacement:
    """A ``project`` that sets H x to alpha y + sigma H eps with new noise eps (Song et al. 2021, appendix I.2).

    A call takes x [B, ...] and the SDE's time t in [0, 1], and returns the shape of x.

    Attributes:
        known: the measurement y, [B, ...], of the shape of H x.
        projection: the map H.
        noise: function that returns standard normal noise of the shape of its argument.
    """

    sde: SDE
    known: Tensor
    projection: Projection
    noise: Noise

    def __call__(self, x: Tensor, t: float) -> Tensor:
        alpha, sigma = (value.item() for value in self.sde.marginal(torch.tensor(t, dtype=torch.float64)))
        return replace_measurement(
            x, alpha * self.known + sigma * self.projection.measure(self.noise(x)), self.projection
        )


@own_keywords
@torch.no_grad()
def edit(
    score: Score,
    sde: SDE,
    known: Tensor,
    projection: Projection,
    *,
    method: Way = "moment_matching",
    noise: float = 0.0,
    iterations: int = ITERATIONS,
    resample: int = 0,
    generator: RandomSource = None,
    callback: Callback | None = None,
    **settings: Unpack[Settings],
) -> Samples:
    """Draw images x0 with H x0 = y, or with y = H x0 + noise.

    Args:
        score: ``score(x_t, t)`` or an object with such a method; differentiable in x_t for moment_matching.
        known: the measurement y, [B, ...].
        projection: the linear map H, see :mod:`raysde.sampling.inverse.operators`; H^T y has the shape of the result.
        method: moment_matching or replacement.
        noise: standard deviation of y's noise, in units of the data. Without noise the result has H x0 = y exactly.
        iterations: for moment_matching, see :class:`raysde.sampling.inverse.posterior.MomentMatching`.
        resample: for replacement, see :func:`raysde.sampling.sampler.sample`.
        generator: one for the batch or one for each image.
        callback, settings: as for :func:`raysde.sampling.sampler.sample`.

    Raises:
        ValueError: if there is no such method, or it does not support a given argument; and as :func:`sample`.
    """
    if method not in WAYS:
        raise ValueError(f"method must be one of {', '.join(WAYS)}, got {method!r}")
    if method == "replacement" and noise:
        raise ValueError(f"noise={noise} needs method moment_matching: replacement assumes a measurement without noise")
    if method == "replacement" and iterations != ITERATIONS:
        raise ValueError(f"iterations={iterations} belongs to method moment_matching; leave it out")
    if method == "moment_matching" and resample:
        raise ValueError(f"resample={resample} belongs to method replacement; leave it out")
    project = None
    if method == "replacement":
        project = Replacement(sde, known, projection, noise_from(generator))
    else:
        score = MomentMatching(check_score_values(score), sde, known, projection, noise, iterations).score
    drawn = sample(
        score,
        sde,
        projection.transpose(known).shape,
        generator=generator,
        device=known.device,
        dtype=known.dtype,
        project=project,
        resample=resample,
        callback=callback,
        **settings,
    )
    return Samples(drawn.x if noise else replace_measurement(drawn.x, known, projection), drawn.nfe)


@own_keywords
@torch.no_grad()
def sdedit(
    score: Score,
    sde: SDE,
    x0: Tensor,
    strength: float,
    *,
    generator: RandomSource = None,
    callback: Callback | None = None,
    **settings: Unpack[Settings],
) -> Samples:
    """Draw variations of x0: add noise, then remove it by sampling (Meng et al. 2022, arXiv 2108.01073).

    Args:
        x0: images, [B, ...].
        strength: fraction of the time grid that is walked, measured from its end in the grid's own variable. On a
            log-SNR grid 0.5 starts half-way in log-SNR and takes half of the steps. 0 returns x0; 1 ignores x0.
        callback: called after each step with the number of steps done and the current x.
        score, sde, generator, settings: as for :func:`raysde.sampling.sampler.sample`.

    Raises:
        ValueError: if ``strength`` is outside [0, 1]; and as :func:`raysde.sampling.sampler.sample`.
    """
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"strength must lie between 0 and 1, got {strength}")
    method = Method(**settings)
    times, start = method.last_times(sde, strength), None
    if len(times) < 2:
        return Samples(x0, 0)
    if method.churn:  # churn is the total over all steps of the grid
        settings["churn"] = method.churn_of(len(times) - 1)
    if strength < 1.0:
        alpha, sigma = (value.item() for value in sde.marginal(times[0]))
        start = alpha * x0 + sigma * noise_from(generator)(x0)
    return sample(
        score,
        sde,
        x0.shape,
        generator=generator,
        device=x0.device,
        dtype=x0.dtype,
        times=times,
        start=start,
        callback=callback,
        **drop_grid_settings(settings),
    )
