"""The optimiser, its learning rate, and one guarded update."""

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
"""A factor on the learning rate, given the share of the run that is done and the number of updates made."""


def parameter_groups(
    parameters: Iterable[nn.Parameter], text: Iterable[nn.Parameter], lr: float, text_lr: float | None
) -> list[dict[str, Any]]:
    """The parameter groups of those that are trained.

    Args:
        text: those of a text encoder, among ``parameters``.
        text_lr: their learning rate, None for ``lr``; :func:`update_parameters` keeps its ratio to ``lr``.
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
    """AdamW with its fused kernel over the parameters that are trained."""
    parts = parameter_groups(model.parameters(), model.conditioner.text_parameters, lr, text_lr)
    return torch.optim.AdamW(parts, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)


def muon(
    model: ScoreModel, *, lr: float, betas: tuple[float, float], weight_decay: float, text_lr: float | None = None
) -> Muon:
    """Muon for the matrices of the network, AdamW for the conditions and the rest of it.

    Raises:
        ValueError: if the network has no matrices.
    """
    chosen = find_matrices(model.network)
    if not chosen:
        raise ValueError(
            f"train.optimizer=muon has no effect: the network has no matrix of {LEAST} x {LEAST} or more; take adamw"
        )
    known = {id(parameter) for parameter in chosen}
    others = (parameter for parameter in model.parameters() if id(parameter) not in known)
    parts = parameter_groups(others, model.conditioner.text_parameters, lr, text_lr)
    return Muon(chosen, parts, lr=lr, betas=betas, weight_decay=weight_decay)


OPTIMIZERS: Mapping[str, Callable[..., torch.optim.AdamW]] = {"adamw": adamw, "muon": muon}


def learning_rate(base: float, updates: int, warmup: int, decay: Decay | Rule, progress: float) -> float:
    """The rate of update number ``updates`` (from 0): linear warm-up over ``warmup`` updates, then the decay.

    ``updates`` counts updates that were made, so a step that the gradient scaler skipped does not advance it.
    ``progress`` in [0, 1] is the share of the run that is done; "cosine" falls to zero at its end.
    """
    rate = base * min(1.0, (updates + 1) / warmup) if warmup > 0 else base
    if callable(decay):
        return rate * float(decay(progress, updates))
    return rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress))) if decay == "cosine" else rate


def rate_metrics(optimizer: torch.optim.Optimizer, lr: float) -> dict[str, float]:
    """The learning rates of an update at ``lr`` as metrics; train/text_lr only if a text encoder has its own."""
    ratio = next((group["ratio"] for group in optimizer.param_groups if "ratio" in group), None)
    return {"train/lr": lr} if ratio is None else {"train/lr": lr, "train/text_lr": lr * ratio}


def update_parameters(
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    parameters: list[nn.Parameter],
    clip: float,
    lr: float,
) -> tuple[Tensor, bool]:
    """Unscales, clips to the norm ``clip`` (0: no clipping), steps, and clears the gradients.

    Args:
        parameters: all that are trained; their gradients are clipped together, whatever their learning rates.
        lr: of this update; a parameter group with a ``ratio`` takes that times as much.

    Returns:
        The gradient norm before clipping, and whether the optimiser stepped (False when fp16 gradients overflowed).
    """
    scaler.unscale_(optimizer)
    norm = gather_tensor(torch.nn.utils.clip_grad_norm_(parameters, clip if clip > 0.0 else math.inf))
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("ratio", 1.0)
    before = scaler.get_scale() if scaler.is_enabled() else 1.0
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return norm, not scaler.is_enabled() or scaler.get_scale() >= before
