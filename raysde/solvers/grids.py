"""Grids of times from the SDE's ceiling down to its sample floor."""

import math
from typing import Literal

import torch
from torch import Tensor

from raysde.sde import SDE

Grid = Literal["time", "log_snr", "edm", "quadratic"]
GRIDS: tuple[Grid, ...] = ("time", "log_snr", "edm", "quadratic")


def time_grid(sde: SDE, steps: int, grid: Grid, rho: float = 7.0) -> Tensor:
    """steps + 1 falling times, float64.

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
    ends = torch.tensor([sde.ceiling, sde.sample_floor], dtype=torch.float64)
    if grid == "time":
        return _between(ends, steps)
    if grid == "quadratic":
        times = _between(ends.sqrt(), steps).square()
    elif grid == "log_snr":
        times = sde.time_at(_between(sde.log_snr(ends), steps))
    else:
        roots = torch.exp(-0.5 * sde.log_snr(ends) / rho)
        times = sde.time_at(-2.0 * rho * torch.log(_between(roots, steps)))
    times[0], times[-1] = ends
    return times


def _between(ends: Tensor, steps: int) -> Tensor:
    return torch.linspace(ends[0].item(), ends[1].item(), steps + 1, dtype=torch.float64)


def checked(times: Tensor, sde: SDE) -> Tensor:
    """A grid of the caller's own, float64.

    Raises:
        ValueError: if it does not fall, has fewer than two times, or leaves (0, ceiling].
    """
    times = torch.as_tensor(times, dtype=torch.float64, device="cpu")
    if times.ndim != 1 or len(times) < 2 or not (times.diff() < 0.0).all():
        raise ValueError("times must be at least two falling times")
    if not (times[0] <= sde.ceiling and times[-1] > 0.0 and math.isfinite(sde.log_snr(times[-1]).item())):
        raise ValueError(
            f"times must lie above 0 and at or below the SDE's ceiling {sde.ceiling}, "
            f"got {times[0].item():g} to {times[-1].item():g}"
        )
    return times
