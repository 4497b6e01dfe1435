"""Time grids from the SDE's ceiling down to its sample floor."""

import math
from collections.abc import Callable
from typing import get_args

import torch
from torch import Tensor

from raysde.sampling.solvers import Grid
from raysde.sde import SDE

GRIDS: tuple[Grid, ...] = get_args(Grid)
TimeMap = Callable[[Tensor], Tensor]


def grid_variable(sde: SDE, grid: Grid, rho: float) -> tuple[TimeMap, TimeMap]:
    """Return the function of t in which a grid is uniform, and its inverse; both keep shapes.

    Args:
        rho: exponent of the grid ``edm`` (Karras et al. 2022, eq. 5); other grids ignore it.
    """
    if grid == "time":
        return (lambda t: t), (lambda u: u)
    if grid == "quadratic":
        return torch.sqrt, torch.square
    if grid == "log_snr":
        return sde.log_snr, sde.time_at
    return (lambda t: torch.exp(-0.5 * sde.log_snr(t) / rho)), (lambda u: sde.time_at(-2.0 * rho * torch.log(u)))


def time_grid(sde: SDE, steps: int, grid: Grid, rho: float = 7.0) -> Tensor:
    """Return falling times from the SDE's ceiling to its sample floor, [steps + 1] float64.

    time       uniform in t
    log_snr    uniform in log-SNR (Lu et al. 2022)
    edm        uniform in (sigma / alpha)^(1 / rho) (Karras et al. 2022, eq. 5)
    quadratic  uniform in sqrt(t) (Song, Meng and Ermon 2021, appendix D)

    Raises:
        ValueError: if ``steps`` is below 1, ``rho`` is not positive, or the grid has no such name.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if grid not in GRIDS:
        raise ValueError(f"grid must be one of {', '.join(GRIDS)}, got {grid!r}")
    if rho <= 0.0:
        raise ValueError(f"rho must be positive, got {rho}")
    there, back = grid_variable(sde, grid, rho)
    ends = torch.tensor([sde.ceiling, sde.sample_floor], dtype=torch.float64)
    first, last = there(ends).tolist()
    times = back(torch.linspace(first, last, steps + 1, dtype=torch.float64))
    times[0], times[-1] = ends
    return times


def last_grid_part(times: Tensor, sde: SDE, grid: Grid, rho: float, share: float) -> Tensor:
    """Return the last ``share`` of a :func:`time_grid`, measured in the grid's own variable, 1-D float64.

    Its first step may be a part of one of the grid's steps. A share of 0 gives the last time alone, 1 the whole grid.

    Args:
        times: the whole grid, [steps + 1].
        grid, rho: name and exponent with which :func:`time_grid` made it.
    """
    # without rounding, 0.7 of ten steps would be just above seven
    place = round((1.0 - share) * (len(times) - 1), 9)
    index = math.floor(place)
    if place == index:
        return times[index:]
    there, back = grid_variable(sde, grid, rho)
    start = torch.lerp(there(times[index]), there(times[index + 1]), place - index)
    return torch.cat([back(start)[None], times[index + 1 :]])


def check_times(times: Tensor, sde: SDE) -> Tensor:
    """Return the caller's own times, [K] with K >= 2, as a float64 tensor on the CPU.

    Raises:
        ValueError: if they do not fall, are fewer than two, or leave (0, ceiling]; 0 is allowed where sigma(0) > 0.
    """
    times = torch.as_tensor(times, dtype=torch.float64, device="cpu")
    if times.ndim != 1 or len(times) < 2 or not (times.diff() < 0.0).all():
        raise ValueError("times must fall from noise to data, and be two or more, such as 1, 0.5, 0.1, 0.001")
    if not (times[0] <= sde.ceiling and times[-1] >= 0.0 and math.isfinite(sde.log_snr(times[-1]).item())):
        raise ValueError(
            f"times must lie above 0 and at or below the SDE's ceiling {sde.ceiling}, "
            f"got {times[0].item():g} to {times[-1].item():g}"
        )
    return times
