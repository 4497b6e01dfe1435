"""Measurements of drawn images; image i of a seed does not depend on the batch or the worker that draws it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from raysde.evaluation.chunks import MeasuredRange
from raysde.evaluation.features.classifier import Judge
from raysde.evaluation.features.networks import FeatureNetwork
from raysde.evaluation.selection import ImageConditions
from raysde.inference.model import Model
from raysde.io.hashing import model_hash


@dataclass(frozen=True)
class Drawer:
    """A model that draws images by their numbers and measures them.

    Attributes:
        conditions: prompts and labels of the images.
        seed: seed of all images.
        settings: further keyword arguments of the model's ``sample``: guidance, autoguide, solver, steps and so on.
        network, judge: feature network and classifier that measure the images.
    """

    model: Model
    conditions: ImageConditions
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)
    network: FeatureNetwork | None = None
    judge: Judge | None = None

    def images(self, first: int, count: int, told: Callable[[int, int], None] | None = None) -> torch.Tensor:
        """Draw ``count`` images from number ``first`` on, uint8 [count, C, H, W]."""
        asked = self.conditions.drawing(range(first, first + count))
        drawn = self.model.sample(n=count, seed=self.seed, first=first, progress=told, **asked, **self.settings)  # type: ignore[arg-type]
        return drawn.images

    def part(self, first: int, count: int, told: Callable[[int, int], None] | None = None) -> MeasuredRange:
        """Draw ``count`` images from number ``first`` on and return their features, logits, read and asked classes."""
        images, values = self.images(first, count, told), {}
        if self.network is not None:
            values["features"], logits = self.network(images)
            if logits is not None:
                values["logits"] = logits
        if self.judge is not None:
            values["read"] = self.judge.read(images)
            values["asked"] = torch.tensor([self.conditions.label(number) for number in range(first, first + count)])
        return MeasuredRange(first, values)


def describe_guide(
    model: Model, guide: Model | None, autoguidance: float | None, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a guide's entries in the report: its hash, and the scale ``autoguidance`` if conditions guide images too.

    Raises:
        ValueError: if the guide does not fit the model, or has no effect.
    """
    model.guidance(1, settings["guidance"], settings.get("guidance_interval"), None, guide, autoguidance)
    if guide is None:
        return {}
    if (settings["guidance"] if autoguidance is None else autoguidance) == 1.0:
        which = "guidance" if autoguidance is None else "autoguidance"
        raise ValueError(f"autoguide has no effect at {which} 1: give {which}=2 or so")
    away = {"autoguide": model_hash(guide.spec.dump(), guide.score_model)}
    return away if autoguidance is None else {**away, "autoguidance": autoguidance}
