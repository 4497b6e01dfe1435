"""What each of some workers takes of a cluster, and where its weights go."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
import torch


@dataclass(frozen=True)
class Place:
    """What a worker takes.

    Attributes:
        cpus, gpus: shares of a node.
        device: where its weights go.
    """

    cpus: float
    gpus: float
    device: str

    @property
    def threads(self) -> int:
        """Of torch, on the CPUs that it has."""
        return max(1, min(int(self.cpus), os.cpu_count() or 1))


def alive() -> list[dict[str, Any]]:
    """The nodes of the cluster; Ray also lists those that have died."""
    return [node for node in ray.nodes() if node["Alive"]]


def place_for(workers: int, device: str | None) -> Place:
    """What each of ``workers`` takes of the cluster that this process is connected to.

    On GPUs no worker asks for CPUs, of which it needs little.

    Args:
        device: cpu, cuda, ...; None for GPUs if the cluster has some.
    """
    nodes = [node["Resources"] for node in alive()]
    gpus = [node.get("GPU", 0.0) for node in nodes]
    if any(gpus) if device is None else torch.device(device).type == "cuda":
        return Place(0.0, min(1.0, share(gpus, workers)), "cuda")
    return Place(share([node.get("CPU", 0.0) for node in nodes], workers), 0.0, device or "cpu")


def share(nodes: Sequence[float], workers: int) -> float:
    """The most that each of ``workers`` can have, so that there is room for all: whole units, or one part in k of one.

    Args:
        nodes: units that each node has. One unit is asked for where there are none, for a cluster that grows.
    """
    units = [int(node) for node in nodes if node >= 1.0]
    if not units:
        return 1.0
    if sum(units) < workers:
        return 1.0 / -(-workers // sum(units))
    return float(next(each for each in range(max(units), 0, -1) if sum(unit // each for unit in units) >= workers))
