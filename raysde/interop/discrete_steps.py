"""Conversion between the numbered steps of diffusers' discrete processes and continuous time.

Step i of N has alpha-bar_i = alpha(t_i)^2; the network's time input i is ``preconditioning.time`` of t_i.
"""

from typing import Any

import torch
from torch import Tensor

from raysde.sde import SDE, VP
from raysde.sde.parameterisation import Target, TimeInput

DISCRETE = (
    "DDPMScheduler",
    "DDIMScheduler",
    "PNDMScheduler",
    "DPMSolverMultistepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
)
"""Schedulers whose process is defined by a table of alpha-bar."""
PREDICTIONS: dict[Target, str] = {"noise": "epsilon", "x0": "sample", "v": "v_prediction"}
"""Diffusers' ``prediction_type`` for each target that its discrete schedulers support."""


def step_times(sde: SDE, time: TimeInput | None) -> Tensor:
    """Return the times [N], float64, at which the network's time input is 0, 1, ... N - 1.

    At t = 0 nothing is left to predict, so step 0 of an input of 999 t is at the training floor instead.

    Raises:
        ValueError: if the time input is not a whole number from 0 on.
    """
    if time == "step":
        return torch.arange(1, sde.discrete_steps + 1, dtype=torch.float64) / sde.discrete_steps
    if time == "999t":
        times = torch.arange(1000, dtype=torch.float64) / 999.0
        times[0] = sde.train_floor
        return times
    raise ValueError(
        f"preconditioning.time={time}: the discrete schedulers of diffusers number their steps, "
        "which needs preconditioning.time=999t or step"
    )


def discrete_betas(sde: SDE, times: Tensor) -> Tensor:
    """Return beta_i = 1 - alpha-bar_i / alpha-bar_(i - 1), float64 [N], of steps at ``times`` [N] from clean data."""
    log_alpha = sde.log_alpha(times)
    return -torch.expm1(2.0 * log_alpha.diff(prepend=log_alpha.new_zeros(1)))


def process_of_scheduler(scheduler: Any) -> tuple[VP, Target]:
    """Return a VP process with the alpha-bar table of diffusers' discrete scheduler, and the target of its network.

    Raises:
        ValueError: if the table reaches 0, or the target is not supported.
    """
    config, name = scheduler.config, type(scheduler).__name__
    if config.get("rescale_betas_zero_snr"):
        raise ValueError(f"{name} has rescale_betas_zero_snr: its alpha reaches 0, where log-SNR is not defined")
    if config.get("use_flow_sigmas"):
        raise ValueError(f"{name} has use_flow_sigmas, which no table of alpha-bar describes")
    target = next((ours for ours, theirs in PREDICTIONS.items() if theirs == config.prediction_type), None)
    if target is None:
        raise ValueError(
            f"{name} has prediction_type {config.prediction_type!r}; known are {', '.join(PREDICTIONS.values())}"
        )
    table = tuple(scheduler.alphas_cumprod.double().tolist())
    return VP(schedule="table", alphas_cumprod=table, sample_floor=1.0 / len(table)), target
