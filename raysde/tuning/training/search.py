"""Search algorithms: grid and random search depend on (seed, number) alone, Optuna also on earlier results."""

import math
import zlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import numpy as np

from raysde.tuning.training.direction import rank_by
from raysde.tuning.training.ledger import Trial
from raysde.tuning.training.space import Range, Space, Values

if TYPE_CHECKING:
    import optuna

Search = Literal["grid", "random", "optuna"]


def count_trials(space: Space, search: Search, trials: int | None) -> int:
    """Return the number of trials of a sweep.

    Raises:
        ValueError: if a grid has a range or more combinations than trials, or there are fewer combinations than trials.
    """
    size = space.size
    if search == "grid" and size is None:
        ranged = next(axis.name for axis in space.axes if isinstance(axis.values, Range))
        raise ValueError(f"a grid needs lists, {ranged} is a range: give it points, such as log(1e-4,1e-2,5)")
    if trials is None and (size is None or search == "optuna"):
        raise ValueError(f"a {search} search needs --trials; give a number of trials")
    if size is not None and trials is not None:
        if search == "grid" and trials < size:
            raise ValueError(f"the grid has {size} combinations, --trials {trials} leaves some out: search at random")
        if search != "optuna" and trials > size:
            raise ValueError(f"the space has {size} combinations, which is less than --trials {trials}; lower --trials")
    return trials if trials is not None else size  # type: ignore[return-value]


def plan_trials(space: Space, search: Search, seed: int, count: int) -> list[Values] | None:
    """Return the values of ``count`` trials, or None if they depend on earlier results.

    A random search among lists alone takes no combination twice.

    Args:
        seed: seed of a random search; the grid does not read it.
    """
    if search == "optuna":
        return None
    if search == "grid":
        return [space.combination(number) for number in range(count)]
    if space.size is not None:
        order = np.random.default_rng(seed).permutation(space.size)
        return [space.combination(int(order[number])) for number in range(count)]
    return [draw_trial(space, seed, number) for number in range(count)]


def draw_trial(space: Space, seed: int, number: int) -> Values:
    """Return the values of one trial of a random search; each axis has its own random stream.

    Args:
        seed, number: seed of the search, and number of the trial from 0; both determine the values.
    """
    found: Values = {}
    for axis in space.axes:
        rng = np.random.default_rng([seed, number, zlib.crc32(axis.name.encode())])
        if isinstance(axis.values, Range):
            found[axis.name] = axis.values.at(float(rng.random()))
        else:
            found[axis.name] = axis.values[int(rng.integers(len(axis.values)))]
    return found


def suggest_trial(space: Space, seed: int, number: int, past: Iterable[Trial], metric: str) -> Values:
    """Return the values of one trial from Optuna's tree-structured Parzen estimator, given the trials so far.

    The study is built anew each time, so that a sweep suggests the same values after a kill.

    Args:
        seed, number: seed of the search, and number of the trial from 0.
        past: earlier trials with their results.
        metric: name of the metric.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=int(np.random.default_rng([seed, number]).integers(2**31)))
    study = optuna.create_study(direction="maximize" if rank_by(metric).mode == "max" else "minimize", sampler=sampler)
    distributions = {axis.name: _make_distribution(axis.values) for axis in space.axes}
    for trial in sorted(past, key=lambda trial: trial.number):
        study.add_trial(_make_optuna_trial(space, trial, metric, distributions))
    asked = study.ask(distributions).params
    return {
        axis.name: asked[axis.name] if isinstance(axis.values, Range) else axis.values[asked[axis.name]]
        for axis in space.axes
    }


def _make_distribution(values: tuple | Range) -> "optuna.distributions.BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(values, Range):
        return CategoricalDistribution(range(len(values)))  # Optuna stores no dictionaries, so choices are indices
    if values.kind == "int":
        return IntDistribution(int(values.low), int(values.high))
    return FloatDistribution(values.low, values.high, log=values.kind == "log")


def _make_optuna_trial(space: Space, trial: Trial, metric: str, distributions: dict) -> "optuna.trial.FrozenTrial":
    """Convert a trial: stopped ones become PRUNED, running ones stay RUNNING, which Optuna takes for poor."""
    import optuna

    states = optuna.trial.TrialState
    value = trial.value(metric)
    kinds = {"finished": states.COMPLETE, "stopped": states.PRUNED, "failed": states.FAIL, "running": states.RUNNING}
    ended = trial.state in ("finished", "stopped")
    state = states.FAIL if ended and (value is None or not math.isfinite(value)) else kinds[trial.state]
    return optuna.trial.create_trial(
        params={
            axis.name: trial.values[axis.name]
            if isinstance(axis.values, Range)
            else axis.values.index(trial.values[axis.name])
            for axis in space.axes
        },
        distributions=distributions,
        state=state,
        value=value if state == states.COMPLETE else None,
        intermediate_values={
            report.images: report.metrics[metric] for report in trial.reports if ended and state != states.FAIL
        },
    )
