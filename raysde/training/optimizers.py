"""Optimizers, the learning rate, and one guarded update."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from raysde.distributed.fsdp import gather_tensor
from raysde.models.score import ScoreModel
from raysde.training.muon import LEAST, Muon, find_matrices

Decay = Literal["constant", "cosine"]
Optimizer = Literal["adamw", "muon"]
Rule = Callable[[float, int], float]
"""A learning-rate schedule: the factor as a function of the finished fraction of the run and the number of updates."""


def parameter_groups(
    parameters: Iterable[nn.Parameter], text: Iterable[nn.Parameter], lr: float, text_lr: float | None
) -> list[dict[str, Any]]:
    """Return the parameter groups of the trainable parameters.

    Args:
        text: parameters of the text encoder, among ``parameters``.
        text_lr: the text encoder's learning rate, None for ``lr``; :func:`update_parameters` keeps the ratio of both.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    apart = set() if text_lr is None else {id(parameter) for parameter in text}
    result: list[dict[str, Any]] = [{"params": [p for p in trained if id(p) not in apart]}]
    if text_lr is not None:
        result.append({"params": [p for p in trained if id(p) in apart], "ratio": text_lr / lr})
    return result


def adamw(
    model: ScoreModel, *, lr: float, betas: tuple[float, float], weight_decay: float, text_lr: float | None = None
) -> torch.optim.AdamW:
    """Return AdamW with its fused kernel over the trainable parameters.

    Args:
        lr: learning rate.
        betas: factors on the old first and second moments of AdamW.
        weight_decay: decoupled weight decay.
        text_lr: learning rate of the text encoder; None for ``lr``.
    """
    parts = parameter_groups(model.parameters(), model.conditioner.text_parameters, lr, text_lr)
    return torch.optim.AdamW(parts, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)


def muon(
    model: ScoreModel, *, lr: float, betas: tuple[float, float], weight_decay: float, text_lr: float | None = None
) -> Muon:
    """Return Muon for the matrices of the network, with AdamW for all other parameters.

    Args:
        lr: learning rate.
        betas: factors on the old first and second moments of AdamW.
        weight_decay: decoupled weight decay.
        text_lr: learning rate of the text encoder; None for ``lr``.

    Raises:
        ValueError: if the network has no matrices.
    """
    chosen = find_matrices(model.network)
    if not chosen:
        raise ValueError(
            f"train.optimizer=muon has no effect: the network has no matrix of {LEAST} x {LEAST} or more; use adamw"
        )
    known = {id(parameter) for parameter in chosen}
    others = (parameter for parameter in model.parameters() if id(parameter) not in known)
    parts = parameter_groups(others, model.conditioner.text_parameters, lr, text_lr)
    return Muon(chosen, parts, lr=lr, betas=betas, weight_decay=weight_decay)


OPTIMIZERS: Mapping[str, Callable[..., torch.optim.AdamW]] = {"adamw": adamw, "muon": muon}


def learning_rate(base: float, updates: int, warmup: int, decay: Decay | Rule, progress: float) -> float:
    """Return the learning rate of update ``updates`` (from 0): linear warm-up to ``base`` over ``warmup`` updates, then
    decay.

    ``updates`` counts updates that were made or skipped as bad steps. A step that the gradient scaler skipped does not
    advance it.
    ``progress`` in [0, 1] is the finished fraction of the run; "cosine" falls to zero at its end.
    """
    rate = base * min(1.0, (updates + 1) / warmup) if warmup > 0 else base
    if callable(decay):
        return rate * float(decay(progress, updates))
    return rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress))) if decay == "cosine" else rate


def rate_metrics(optimizer: torch.optim.Optimizer, lr: float) -> dict[str, float]:
    """Return the learning rates at ``lr`` as metrics; train/text_lr only if the text encoder has its own rate."""
    ratio = next((group["ratio"] for group in optimizer.param_groups if "ratio" in group), None)
    return {"train/lr": lr} if ratio is None else {"train/lr": lr, "train/text_lr": lr * ratio}


def update_parameters(
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    parameters: list[nn.Parameter],
    clip: float,
    lr: float,
    accept: Callable[[Tensor], bool] = lambda norm: True,
) -> tuple[Tensor, bool]:
    """Unscale and clip the gradients, take an optimizer step, and clear the gradients.

    Args:
        parameters: all trainable parameters; their gradients are clipped together, whatever their learning rates.
        clip: maximum gradient norm, 0 for no clipping.
        lr: learning rate of this update; a parameter group's ``ratio`` multiplies it.
        accept: called with the gradient norm before clipping; False leaves the update out. A gradient scaler that is
            enabled needs True, because it judges gradients itself.

    Returns:
        The gradient norm before clipping, a scalar tensor, and True if the optimizer stepped, False if fp16 gradients
        overflowed or the norm was not accepted.
    """
    scaler.unscale_(optimizer)
    norm = gather_tensor(torch.nn.utils.clip_grad_norm_(parameters, clip if clip > 0.0 else math.inf))
    if not accept(norm):
        assert not scaler.is_enabled()
        optimizer.zero_grad(set_to_none=True)
        return norm, False
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("ratio", 1.0)
    before = scaler.get_scale() if scaler.is_enabled() else 1.0
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return norm, not scaler.is_enabled() or scaler.get_scale() >= before
