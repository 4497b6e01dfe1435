"""Small recipes, training states and metric sinks."""

from pathlib import Path

import torch

from raysde.config import loading
from raysde.data.dataset.manifest import Manifest
from raysde.runs.build import new_state
from raysde.training.state import TrainState

STDS = (0.05, 0.1)
"""Relative standard deviations of the EMA profiles in the tests."""


def small_recipe(data: Manifest, runs: Path, /, **changes) -> dict:
    """Return a recipe with every feature switched on, which trains in at most a second per step."""
    tree = {
        "name": "small",
        "storage": str(runs),
        "data": {"path": data.path},
        "network": {
            "kind": "unet",
            "channels": 8,
            "multipliers": [1, 2],
            "blocks": 1,
            "attention": [4],
            "head_channels": 8,
        },
        "text": {"kind": "scratch", "width": 16, "layers": 1, "heads": 2},
        "train": {"length": {"steps": 10}, "batch": 16, "lr": 1e-3, "warmup": 3, "ema": {"half_life": 100}},
        "log_every": 1,
        "checkpoint_every": 5,
    }
    for path, value in changes.items():
        loading.set_path(tree, path.split("__"), value)
    return tree


class Recorded:
    """A sink that keeps metrics and images in memory."""

    def __init__(self) -> None:
        self.values: list[tuple[int, dict[str, float]]] = []
        self.pictures: list[int] = []

    def metrics(self, step, values) -> None:
        self.values.append((step, dict(values)))

    def image(self, step, name, image) -> None:
        self.pictures.append(step)

    def of(self, key: str) -> dict[int, float]:
        return {step: values[key] for step, values in self.values if key in values}


def same_tensors(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def stirred(run) -> TrainState:
    """Return a training state with noise added to all weights, since some layers are zero-initialised."""
    state = new_state(run, torch.device("cpu"))
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in state.model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=g))
    return state
