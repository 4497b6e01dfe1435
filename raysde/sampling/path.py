"""Sampling paths: x_t and the clean data that the score predicts from it, at times evenly spaced in log-SNR.

The solver takes the same steps as :func:`raysde.sampling.sampler.sample`, with the same result. A time between two
times of the grid is reached from the earlier one by Heun steps beside the sample.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor

from raysde.io.keywords import own_keywords
from raysde.rng import RandomSource, noise_from
from raysde.sampling.method import Method, Settings
from raysde.sampling.sampler import Callback, Samples, sample
from raysde.sampling.score import check_score_values
from raysde.sampling.solvers.grids import check_times
from raysde.sampling.solvers.ode import heun
from raysde.sampling.solvers.trajectory import Walk
from raysde.sde import SDE, Score

SAME = 1e-9
"""Tolerance for equality: relative for two times, absolute for two log-SNRs."""
STEP = 0.5
"""Longest Heun step beside the grid, in lambda = log(alpha / sigma); about that of a 20-step log-SNR grid."""


@dataclass(frozen=True)
class Path:
    """States between noise and data.

    Attributes:
        times: times of the states, [K], falling, float64.
        x: x_t at each time, [K, B, ...].
        x0_hat: clean data predicted from each x_t, [K, B, ...].
        end: the sample; its nfe includes the evaluations for the path.
    """

    times: Tensor
    x: Tensor
    x0_hat: Tensor
    end: Samples


def path_times(sde: SDE, grid: Tensor, points: int) -> Tensor:
    """Return falling times, [points] float64, evenly spaced in log-SNR between the ends of a time grid.

    Args:
        grid: falling times, 1-D; only the first and the last are read.

    Raises:
        ValueError: if ``points`` is below 2.
    """
    if points < 2:
        raise ValueError(f"a path needs at least 2 points, its start and its end, got {points}")
    first, last = sde.log_snr(grid[[0, -1]]).tolist()
    times = sde.time_at(torch.linspace(first, last, points, dtype=torch.float64))
    times[0], times[-1] = grid[0], grid[-1]
    return times


def times_between(sde: SDE, start: float, end: float) -> Tensor:
    """Return falling times from ``start`` to ``end``, 1-D float64, at most ``STEP`` apart in log(alpha / sigma)."""
    ends = torch.tensor([start, end], dtype=torch.float64)
    first, last = (0.5 * sde.log_snr(ends)).tolist()
    if last - first < SAME:
        return ends[1:]
    times = sde.time_at(2.0 * torch.linspace(first, last, 1 + math.ceil((last - first) / STEP), dtype=torch.float64))
    times[0], times[-1] = ends
    return times


def _keep_state(x: Tensor, t: float) -> Tensor:
    """Return x unchanged; as a projection it makes rk45 stop at each time of its grid."""
    return x


@own_keywords
@torch.no_grad()
def sample_path(
    score: Score,
    sde: SDE,
    shape: Sequence[int],
    points: int,
    *,
    generator: RandomSource = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    times: Tensor | None = None,
    start: Tensor | None = None,
    callback: Callback | None = None,
    **settings: Unpack[Settings],
) -> Path:
    """Draw samples and keep ``points`` states of their paths, for about three evaluations per state.

    Args:
        points: number of states, including the draw from the prior and the end at the sample floor.
        score, sde, shape, generator, device, dtype, times, start, callback, settings: as for
            :func:`raysde.sampling.sampler.sample`, with times 1-D and start of shape ``shape``. rk45 stops at each grid
            time, so samples differ by its tolerance.

    Raises:
        ValueError: if ``points`` is below 2; and as :func:`raysde.sampling.sampler.sample`.
    """
    method = Method(**settings)
    grid = method.times(sde) if times is None else check_times(times, sde)
    wanted = path_times(sde, grid, points)
    noise = noise_from(generator)
    if start is None:
        start = sde.prior_std * noise(torch.empty(tuple(shape), device=device, dtype=dtype))
    places = [int((grid - t > -SAME * t).sum()) - 1 for t in wanted]
    states = {0: start}

    def watch_step(step: int, x: Tensor) -> None:
        if step in places:
            states[step] = x
        if callback is not None:
            callback(step, x)

    project = _keep_state if method.solver == "rk45" else None
    end = sample(
        score, sde, shape, generator=generator, device=device, dtype=dtype, times=times, start=start, project=project,
        callback=watch_step, **settings,
    )  # fmt: skip
    xs, hats, nfe = [], [], end.nfe
    for t, place in zip(wanted.tolist(), places, strict=True):
        aside = Walk(check_score_values(score), sde, times_between(sde, grid[place].item(), t), noise)
        x = states[place]
        for index in range(len(aside.times) - 1):
            x = heun(aside, x, index)[0]
        hats.append(aside.x0(x, len(aside.times) - 1))
        xs.append(x)
        nfe += aside.nfe
    return Path(wanted, torch.stack(xs), torch.stack(hats), Samples(end.x, nfe))
