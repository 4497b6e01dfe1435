"""CPUs and GPUs of each worker: of training, of independent units of work, and of workers that must all have room.

training          as many runs at once as fit, with the recipe's workers; a CPU of each node is left to Ray Data
one for each      units of work in any order (precomputing, trials of sampler settings): one on each GPU, or on each CPU
                  but one; what has no place waits
a place for all   a given number of workers that hold a model (evaluation, sampling): as much as leaves room for all
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray._private.state import state
from ray._raylet import ActorID, PlacementGroupID
from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # type: ignore[attr-defined]
from ray.util.placement_group import PlacementGroup, remove_placement_group

from raysde.cluster.connection import joins_existing_cluster
from raysde.config.loading import RunConfig

BESIDE_GPU = 4
"""CPUs of a worker on a GPU, if there are so many."""


@dataclass(frozen=True)
class Share:
    """CPUs and GPUs of one worker.

    Attributes:
        cpus, gpus: shares of a node; whole CPUs for training.
        device: where a model's weights go, for workers that hold one.
    """

    cpus: float
    gpus: float = 0
    device: str = ""

    @property
    def gpu(self) -> bool:
        """True if the worker has a GPU, or a part of one."""
        return self.gpus > 0

    @property
    def threads(self) -> int:
        """Threads of torch, on the CPUs that the worker has."""
        return max(1, min(int(self.cpus), os.cpu_count() or 1))


@dataclass(frozen=True)
class Cluster:
    """What there is to share out.

    Attributes:
        cpus, gpus: of the nodes that live.
        nodes: how many these are.
        joined: whether others started it. It may then grow: Ray does not say whether an autoscaler will bring what is
            asked for (ray-project/ray#37838). One that was started here counts one CPU more than the machine has.
    """

    cpus: int
    gpus: int = 0
    nodes: int = 1
    joined: bool = False

    def kept(self, stream: str) -> int:
        """CPUs that no worker gets: one of each node for the tasks of Ray Data, which would otherwise wait forever.

        Workers that read for themselves (``data.stream``) leave none; nobody else of Ray's asks for a CPU.
        """
        return 0 if stream == "worker" and self.joined else self.nodes

    def spare(self, stream: str) -> int:
        """CPUs for workers."""
        return max(0, self.cpus - self.kept(stream))


def list_live_nodes() -> list[dict[str, Any]]:
    """Return the nodes of the cluster that live; Ray also lists those that have died."""
    return [node for node in ray.nodes() if node["Alive"]]


def survey_cluster() -> Cluster:
    """The cluster that this process is connected to."""
    found = ray.cluster_resources()
    return Cluster(int(found.get("CPU", 1)), int(found.get("GPU", 0)), len(list_live_nodes()), joins_existing_cluster())


def assign_share(recipe: RunConfig, cluster: Cluster, runs: int = 1) -> Share:
    """What each worker gets while ``runs`` trainings are under way.

    Raises:
        ValueError: if GPUs are asked for, and there are too few and will be.
    """
    wanted, spare = recipe.resources, cluster.spare(recipe.data.stream)
    gpu = cluster.gpus >= wanted.least if wanted.gpu is None else wanted.gpu
    if gpu and cluster.gpus < wanted.least and not cluster.joined:
        raise ValueError(
            f"resources.gpu is set, but the cluster has {cluster.gpus} GPUs for resources.workers={wanted.least}"
        )
    if wanted.cpus_per_worker is not None:
        return Share(wanted.cpus_per_worker, int(gpu))
    if gpu:
        return Share(min(BESIDE_GPU, max(1, spare // cluster.gpus)) if cluster.gpus else BESIDE_GPU, 1)
    return Share(max(1, spare // (runs * wanted.most)))


def count_concurrent_runs(recipe: RunConfig, cluster: Cluster, trials: int) -> int:
    """How many of ``trials`` fit, with a CPU for each worker if nobody says otherwise; one at least.

    Raises:
        ValueError: as :func:`assign_share`.
    """
    share, most = assign_share(recipe, cluster, trials), recipe.resources.most
    fit = int(cluster.spare(recipe.data.stream) // (most * share.cpus))
    return max(1, min(trials, fit, cluster.gpus // most if share.gpu else fit))


def check_resources(recipe: RunConfig, cluster: Cluster, share: Share, workers: int, lower: str) -> None:
    """Guards against workers that would wait forever, and tells of those that may wait for a cluster to grow.

    Args:
        workers: that have to be under way at once.
        lower: what the user can lower.

    Raises:
        ValueError: naming workers and CPUs, if the cluster was started here and has too few.
    """
    spare, needed, least = cluster.spare(recipe.data.stream), workers * share.cpus, recipe.resources.least
    if needed > spare:
        said = f"{workers} workers at once with {share.cpus} CPUs each need {needed} CPUs, the cluster has {spare}"
        said += " beside those for data tasks" if recipe.data.stream == "ray" else ""
    elif share.gpu and cluster.gpus < least:
        said = f"{least} workers need {least} GPUs, the cluster has {cluster.gpus}"
    else:
        return
    if not cluster.joined:
        raise ValueError(f"{said}: lower {lower}")
    print(f"{said}: what lacks room waits for it to grow; if it does not grow, lower {lower}", flush=True)


def count_workers(units: int, found: Mapping[str, float]) -> tuple[int, Share]:
    """Return how many workers do ``units`` of independent work, and what each of them takes.

    Args:
        found: units of the cluster's resources by name, as Ray gives them.
    """
    gpus = int(found.get("GPU", 0))
    return max(1, min(units, gpus or int(found.get("CPU", 1)) - 1)), Share(1, int(gpus > 0))


def worker_share(workers: int, device: str | None) -> Share:
    """Return what each of ``workers`` takes of the cluster that this process is connected to.

    Workers on GPUs ask for no CPUs, of which they need little.

    Args:
        device: cpu, cuda, ...; None for GPUs if the cluster has some.
    """
    nodes = [node["Resources"] for node in list_live_nodes()]
    gpus = [node.get("GPU", 0.0) for node in nodes]
    if any(gpus) if device is None else torch.device(device).type == "cuda":
        return Share(0.0, min(1.0, largest_share(gpus, workers)), "cuda")
    return Share(largest_share([node.get("CPU", 0.0) for node in nodes], workers), 0.0, device or "cpu")


def largest_share(nodes: Sequence[float], workers: int) -> float:
    """Return the most that each of ``workers`` can have with room for all: whole units, or one part in k of one.

    Args:
        nodes: units that each node has. One unit is asked for where there are none, for a cluster that grows.
    """
    units = [int(node) for node in nodes if node >= 1.0]
    if not units:
        return 1.0
    if sum(units) < workers:
        return 1.0 / -(-workers // sum(units))
    return float(next(each for each in range(max(units), 0, -1) if sum(unit // each for unit in units) >= workers))


def release_orphaned_placement_groups() -> None:
    """Remove this job's placement groups that were created by an actor which is dead.

    Ray keeps them until the job ends. Ray Train removes those of a dead controller, but not of one that dies while its
    worker group starts (Ray 2.60; see also ray-project/ray#62753): on a cluster without CPUs to spare the next
    controller would wait forever.
    """
    job = ray.get_runtime_context().get_job_id()
    for listed in state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(listed)
        by_actor = group.creator_actor_id not in (b"", ActorID.nil().binary())  # the driver's groups count as dead too
        orphaned = by_actor and group.creator_actor_dead and not group.is_detached
        if orphaned and group.creator_job_id.hex() == job and group.state != PlacementGroupTableData.REMOVED:
            remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))
