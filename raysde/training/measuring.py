"""Measurements of the averaged weights during training, which rank checkpoints and stop a run early."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch

from raysde.distributed.world import World
from raysde.models.score import ScoreModel
from raysde.training.ranking import BY_LOSS, Ranking

if TYPE_CHECKING:
    from raysde.training.loop import Hooks
    from raysde.training.state import TrainState

Validate = Callable[[ScoreModel], dict[str, float]]
"""A function that returns metrics of a model by name, equal on all ranks."""


def measure_average(state: TrainState, validate: Validate) -> dict[str, float]:
    """Return the validation metrics of the averaged weights, and note them in the state."""
    state.model.eval()
    with state.ema.swap_weights(), torch.no_grad():
        metrics = validate(state.model)
    state.model.train()
    state.note_metrics(metrics)
    return metrics


def log_average(state: TrainState, hooks: Hooks, world: World, validate: Validate) -> dict[str, float]:
    """Measure the averaged weights, log the metrics and return them."""
    metrics = measure_average(state, validate)
    if world.is_first:
        hooks.log(state.step, metrics)
    return metrics


def validate_average(
    state: TrainState, patience: int, hooks: Hooks, world: World, validate: Validate, ranking: Ranking = BY_LOSS
) -> None:
    """Measure the averaged weights, log the metrics, and stop the run once patience is exhausted.

    Args:
        patience: number of measurements of the ranking's metric without improvement that stop the run; 0 for none.
            Measurements without that metric do not count.
    """
    count_measurement(state, patience, world, ranking, log_average(state, hooks, world, validate))


def count_measurement(
    state: TrainState, patience: int, world: World, ranking: Ranking, metrics: Mapping[str, float]
) -> None:
    """Count a measurement for early stopping, and stop the run once patience is exhausted.

    Args:
        patience: see :func:`validate_average`.
        metrics: its metrics; without the ranking's one it does not count.
    """
    if ranking.by not in metrics:
        return
    cost = ranking.cost(metrics)
    if cost < state.best:
        state.best, state.stale = cost, 0
    else:
        state.stale += 1
    state.stopped = state.stopped or world.any(patience > 0 and state.stale >= patience)


def rank_checkpoint(state: TrainState, ranking: Ranking, hooks: Hooks, world: World, validate: Validate) -> None:
    """Measure the averaged weights at a checkpoint that has no value of the ranking's metric yet, and log the metrics.

    Early stopping does not count this measurement: checkpoints may depend on the clock, and its decisions must not.
    """
    if ranking.by not in state.metrics:
        log_average(state, hooks, world, validate)
