"""Runs with planted faults, and with kills and departures around them."""

import math
import warnings

from raysde.config import loading
from raysde.runs.hooks import RunHooks
from raysde.runs.local import train_here
from raysde.runs.run import open_run
from raysde.training import loop
from raysde.training.objective import microbatch_loss
from raysde.training.state import TrainState

SETTINGS = {
    "network": {"kind": "unet", "channels": 4, "multipliers": [1], "blocks": 1, "attention": [], "head_channels": 4},
    "text": None, "train__length__steps": 12, "checkpoint_every": 4, "train__warmup": 9, "train__decay": "cosine",
    "train__ema__profiles": [0.1], "train__bad_steps": {"window": 5, "threshold": 60.0, "most": 4},
}  # fmt: skip
BAD = {6: "nan", 13: "spike"}
"""Faults at plan positions; spikes come after a full window."""
FAULTS = {
    "nan": lambda loss, weight: loss * math.nan,
    "inf": lambda loss, weight: loss + math.inf,
    "spike": lambda loss, weight: loss * 1e4,
    # a finite loss whose gradient is not: the square root of zero
    "gradient": lambda loss, weight: loss + (0.0 * weight).sum().sqrt(),
}


def plant(monkeypatch, bad: dict[int, str]) -> list[int]:
    """Spoil the losses at plan positions, and return the list of all positions trained on."""
    seen = []

    def spoiled(forward, model, batch, objective, device):
        seen.append(batch.step)
        loss, weight = microbatch_loss(forward, model, batch, objective, device), next(model.parameters())
        return FAULTS[bad[batch.step]](loss, weight) if batch.step in bad else loss

    monkeypatch.setattr(loop, "microbatch_loss", spoiled)
    return seen


def train(tree: dict, sink=None, should_stop=lambda: False) -> TrainState:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return train_here(open_run(loading.parse_recipe(tree)), sink, should_stop)


class Killed(BaseException):
    """A stand-in for a kill, which no handler of the package catches."""


def interrupt(monkeypatch, at: int, leave: bool) -> None:
    """Kill the run after its ``at``-th step, counting repeated ones, or have it leave with a checkpoint."""
    calls = []

    def should_stop(self) -> bool:
        calls.append(1)
        if len(calls) == at and not leave:
            raise Killed
        return len(calls) == at

    monkeypatch.setattr(RunHooks, "should_stop", should_stop)
