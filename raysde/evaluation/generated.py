"""Measurements of drawn images; image i of a seed does not depend on the batch or the worker that draws it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from raysde.evaluation.chunks import MeasuredRange
from raysde.evaluation.features.classifier import Judge
from raysde.evaluation.features.networks import CLIP, FeatureNetwork
from raysde.evaluation.selection import ImageConditions
from raysde.inference.model import Model
from raysde.io.hashing import model_hash

if TYPE_CHECKING:
    from raysde.evaluation.features.pretrained import Clip


@dataclass(frozen=True)
class Drawer:
    """A model that draws images by their numbers and measures them.

    Attributes:
        conditions: prompts and labels of the images.
        seed: seed of all images.
        settings: further keyword arguments of the model's ``sample``: guidance, autoguide, solver, steps and so on.
        network, judge: feature network and classifier that measure the images.
        others: further feature networks by the name of their values.
        clip: network that scores each image with its prompt; None for no score.
        mirrored: measure also the features of each image's mirror image.
    """

    model: Model
    conditions: ImageConditions
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)
    network: FeatureNetwork | None = None
    judge: Judge | None = None
    others: Mapping[str, FeatureNetwork] = field(default_factory=dict)
    clip: Clip | None = None
    mirrored: bool = False

    def images(self, first: int, count: int, progress: Callable[[int, int], None] | None = None) -> torch.Tensor:
        """Draw ``count`` images from number ``first`` on, uint8 [count, C, H, W]."""
        asked = self.conditions.drawing(range(first, first + count))
        drawn = self.model.sample(n=count, seed=self.seed, first=first, progress=progress, **asked, **self.settings)  # type: ignore[arg-type]
        return drawn.images

    def part(self, first: int, count: int, progress: Callable[[int, int], None] | None = None) -> MeasuredRange:
        """Draw ``count`` images from number ``first`` on and return what the networks measure on them, by name.

        The names are features, logits, mirrored, read and asked (classes), clip_score, and those of ``others``.
        """
        images, values = self.images(first, count, progress), {}
        if self.network is not None:
            values["features"], logits = self.network(images)
            if logits is not None:
                values["logits"] = logits
            if self.mirrored:
                values["mirrored"] = self.network(images.flip(-1))[0]
        for name, other in self.others.items():
            values[name] = other(images)[0]
        if self.clip is not None:
            seen = values[CLIP] if CLIP in values else self.clip.images(images)[0]
            prompts = [self.conditions.prompt(number) for number in range(first, first + count)]
            values["clip_score"] = self.clip.scores(seen, [prompt for prompt in prompts if prompt is not None])
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
