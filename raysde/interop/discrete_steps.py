"""A discrete process's numbered steps and the continuous time here: what each says of the other.

Step i of N has alpha-bar_i = alpha(t_i)^2, and a network that is told i is told ``preconditioning.time`` of t_i.
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
"""Schedulers that know one thing of the process, a table of alpha-bar."""
PREDICTIONS: dict[Target, str] = {"noise": "epsilon", "x0": "sample", "v": "v_prediction"}
"""What diffusers calls the targets that its discrete schedulers know."""


def step_times(sde: SDE, time: TimeInput | None) -> Tensor:
    """The times [N], float64, at which a network is told 0, 1, ... N - 1.

    A network told 999 t is told 0 at t = 0, where nothing is left to predict: step 0 is the training floor instead.

    Raises:
        ValueError: if it is not told whole numbers from 0 on.
    """
    if time == "step":
        return torch.arange(1, sde.discrete_steps + 1, dtype=torch.float64) / sde.discrete_steps
    if time == "999t":
        times = torch.arange(1000, dtype=torch.float64) / 999.0
        times[0] = sde.train_floor
        return times
    raise ValueError(
        f"preconditioning.time={time}: the discrete schedulers of diffusers number their steps, "
        "which a network told 999t or step understands"
    )


def discrete_betas(sde: SDE, times: Tensor) -> Tensor:
    """beta_i = 1 - alpha-bar_i / alpha-bar_(i - 1) of the process with steps at ``times``, starting from clean data."""
    log_alpha = sde.log_alpha(times)
    return -torch.expm1(2.0 * log_alpha.diff(prepend=log_alpha.new_zeros(1)))


def process_of_scheduler(scheduler: Any) -> tuple[VP, Target]:
    """The SDE through the alpha-bar table of a discrete scheduler of diffusers, and what its network predicts.

    Raises:
        ValueError: if the table reaches 0, or there is no such target.
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
