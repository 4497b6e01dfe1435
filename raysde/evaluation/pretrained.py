"""Metrics in the features of CLIP and DINOv2, whose weights the user gives."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from raysde.evaluation import compute
from raysde.evaluation.features.networks import CLIP, DINOV2, PRETRAINED, FeatureNetwork
from raysde.evaluation.metric import Metric
from raysde.evaluation.real import Reference

if TYPE_CHECKING:
    from raysde.evaluation.features.pretrained import Clip

METRICS = {"clip_score": CLIP, "fd_dinov2": DINOV2, "cmmd": CLIP}
"""Name of each metric, and the network that it needs."""
COMPARING = ("fd_dinov2", "cmmd")
"""Metrics that compare with real images."""


@dataclass(frozen=True)
class Networks:
    """The pretrained networks that metrics need.

    Attributes:
        clip: CLIP, if a metric needs it.
        others: networks in whose features drawn and real images are compared, by name.
        scores: True if CLIP scores each image with its prompt.
    """

    clip: Clip | None = None
    others: Mapping[str, FeatureNetwork] = field(default_factory=dict)
    scores: bool = False

    @property
    def used(self) -> bool:
        """True if there is a network."""
        return self.clip is not None or bool(self.others)

    @property
    def scorer(self) -> Clip | None:
        """CLIP if it scores images with their prompts, else None."""
        return self.clip if self.scores else None

    def describe(self) -> dict[str, dict[str, str]]:
        """Return folder and hash of each network, as JSON values."""
        found = dict(self.others)
        if self.clip is not None:
            found[CLIP] = self.clip.images
        return {name: {"name": found[name].name, "hash": found[name].hash} for name in sorted(found)}


def check_weights_given(metrics: Collection[str], folders: Mapping[str, str | None]) -> None:
    """Check that the weights of every network that a metric needs are given.

    Args:
        folders: folder of each network's weights, None where none is given.

    Raises:
        ValueError: naming the metric and the option.
    """
    for name, network in METRICS.items():
        if name in metrics and folders[network] is None:
            raise ValueError(
                f"{name}: needs weights of {PRETRAINED[network]}; give their folder by --{network}, or leave {name} out"
            )


def open_networks(
    metrics: Collection[str],
    folders: Mapping[str, str | None],
    image: tuple[int, int, int],
    device: torch.device | str,
) -> Networks:
    """Return the networks that metrics need, after running them on a black image (C, H, W).

    Args:
        folders: folder of each network's weights.

    Raises:
        ValueError: if a folder does not hold the weights, or the image has channels that the networks do not take.
    """
    wanted = {METRICS[name] for name in metrics if name in METRICS}
    if not wanted:
        return Networks()
    from raysde.evaluation.features.pretrained import open_clip, open_pretrained  # imports transformers

    clip, others = None, {}
    if CLIP in wanted:
        clip = open_clip(_folder_of(CLIP, folders), device)
        clip.images(torch.zeros(1, *image, dtype=torch.uint8))
        if "cmmd" in metrics:
            others[CLIP] = clip.images
    if DINOV2 in wanted:
        others[DINOV2] = open_pretrained(_folder_of(DINOV2, folders), "--dinov2", (DINOV2,), device)
        others[DINOV2](torch.zeros(1, *image, dtype=torch.uint8))
    return Networks(clip, others, "clip_score" in metrics)


def _folder_of(network: str, folders: Mapping[str, str | None]) -> str:
    found = folders[network]
    assert found is not None, "check_weights_given was not called"
    return found


def compute_metrics(
    metrics: Collection[str],
    networks: Networks,
    scores: Tensor | None,
    real: Mapping[str, Reference],
    drawn: Mapping[str, Reference],
    seed: int,
    *,
    allow_few: bool = False,
) -> dict[str, Metric]:
    """Compute the metrics in ``metrics`` that METRICS names.

    Args:
        scores: CLIP's score of each drawn image with its prompt, [N].
        real, drawn: features of real and of drawn images by the name of their network.

    Raises:
        ValueError: if there are fewer than 2,048 images for fd_dinov2 and ``allow_few`` is False.
    """
    found = {}
    if "clip_score" in metrics:
        assert scores is not None
        assert networks.clip is not None
        found["clip_score"] = compute.clip_score(scores, seed, networks.clip.hash)
    if "cmmd" in metrics:
        hashed = networks.others[CLIP].hash
        found["cmmd"] = compute.cmmd(real[CLIP].features, drawn[CLIP].features, seed, hashed)
    if "fd_dinov2" in metrics:
        hashed = networks.others[DINOV2].hash
        found["fd_dinov2"] = compute.fd_dinov2(real[DINOV2], drawn[DINOV2], seed, hashed, allow_few=allow_few)
    return found
