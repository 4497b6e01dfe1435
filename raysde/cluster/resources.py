"""CPUs and GPUs of each worker, for three kinds of work.

training          as many concurrent runs as fit, each with the recipe's workers; one CPU per node is left to Ray Data
one for each      independent units of work (precomputing, trials of sampler settings): one per GPU, or per CPU but one;
                  other units wait for a free worker
a place for all   a given number of workers that hold a model (evaluation, sampling): the largest share that fits all
"""

import math
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
"""CPUs of a training worker on a GPU, if the cluster has enough."""


STORE_SHARE = 0.5
"""Part of the object store for a run's blocks; the rest is for copies on other nodes and for other data."""


@dataclass(frozen=True)
class Share:
    """CPUs and GPUs of one worker.

    Attributes:
        cpus, gpus: parts of a node's resources; whole CPUs for training.
        device: torch device of the model's weights, for workers that hold a model; else empty.
    """

    cpus: float
    gpus: float = 0
    device: str = ""

    @property
    def gpu(self) -> bool:
        """True if the worker has a GPU or a fraction of one."""
        return self.gpus > 0

    @property
    def threads(self) -> int:
        """Number of torch threads for the worker's CPUs."""
        return max(1, min(int(self.cpus), os.cpu_count() or 1))


@dataclass(frozen=True)
class Cluster:
    """Resources that can be shared out among workers.

    Attributes:
        cpus, gpus: totals over all live nodes.
        nodes: number of live nodes with a CPU; a head without one runs neither workers nor data tasks.
        joined: True if the cluster existed before this process. Such a cluster may grow: Ray does not say whether an
            autoscaler will provide the requested resources (ray-project/ray#37838). A cluster started by raysde counts
            one CPU more than the machine has.
        apart: True if data tasks run on nodes of their own, which are not counted here.
    """

    cpus: int
    gpus: int = 0
    nodes: int = 1
    joined: bool = False
    apart: bool = False

    def kept(self, stream: str) -> int:
        """Return the CPUs reserved for Ray Data: one per node, without which its tasks would wait forever.

        A joined cluster reserves none if no data tasks run on these nodes: under ``data.stream=worker``, or if the
        tasks have nodes of their own.
        """
        return 0 if (stream == "worker" or self.apart) and self.joined else self.nodes

    def spare(self, stream: str) -> int:
        """Return the CPUs left for workers."""
        return max(0, self.cpus - self.kept(stream))


@dataclass(frozen=True)
class DataShare:
    """A training worker's part of the resources for data tasks.

    Attributes:
        tasks: number of tasks that may run at the same time.
        bytes: object-store memory for blocks that were made and not consumed yet.
        nodes: labels, as (key, value), of the nodes on which the tasks run; empty for all nodes.
    """

    tasks: int
    bytes: float
    nodes: tuple[tuple[str, str], ...] = ()


def list_live_nodes() -> list[dict[str, Any]]:
    """Return the live nodes of the cluster; ``ray.nodes()`` also lists dead ones."""
    return [node for node in ray.nodes() if node["Alive"]]


def survey_cluster(data_nodes: Mapping[str, str] | None = None) -> Cluster:
    """Return the resources of the cluster that this process is connected to, for workers.

    Args:
        data_nodes: labels of the nodes that run data tasks (``data.nodes``), which are not counted.
    """
    found, nodes, joined = ray.cluster_resources(), list_live_nodes(), joins_existing_cluster()
    apart = [node for node in nodes if data_nodes and has_labels(node, data_nodes)]
    count = sum(node["Resources"].get("CPU", 0) >= 1 for node in nodes if node not in apart)
    cpus, gpus = (
        int(found.get(name, 0) - sum(node["Resources"].get(name, 0) for node in apart)) for name in ("CPU", "GPU")
    )
    return Cluster(cpus, gpus, max(1, count), joined, bool(apart))


def has_labels(node: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Return True if a node of :func:`list_live_nodes` has all of the labels."""
    return labels.items() <= (node.get("Labels") or {}).items()


def check_data_nodes(recipe: RunConfig, cluster: Cluster) -> None:
    """Refuse labels in ``data.nodes`` that no node has; print a note if the cluster may grow.

    Raises:
        ValueError: if the cluster was started by raysde.
    """
    if recipe.data.stream == "worker" or not recipe.data.nodes or cluster.apart:
        return
    said = f"data.nodes: no node has the labels {recipe.data.nodes}"
    if not cluster.joined:
        raise ValueError(f"{said}; leave data.nodes out, or join a cluster with nodes for data tasks")
    print(f"{said}: data tasks wait until such a node joins the cluster", flush=True)


def assign_share(recipe: RunConfig, cluster: Cluster, runs: int = 1) -> Share:
    """Return the share of each training worker while ``runs`` runs train concurrently.

    Raises:
        ValueError: if the recipe requests GPUs and a cluster that cannot grow has too few.
    """
    apart = actors_share(recipe)
    wanted, spare = recipe.resources, max(0, cluster.spare(recipe.data.stream) - runs * int(apart.cpus))
    gpus = cluster.gpus - math.ceil(runs * apart.gpus)
    gpu = gpus >= wanted.least if wanted.gpu is None else wanted.gpu
    if gpu and cluster.gpus < wanted.least and not cluster.joined:
        raise ValueError(
            f"resources.gpu is set, but the cluster has {cluster.gpus} GPUs for resources.workers={wanted.least}; "
            "set resources.gpu=false to train on CPUs, or lower resources.workers"
        )
    if wanted.cpus_per_worker is not None:
        return Share(wanted.cpus_per_worker, int(gpu))
    if gpu:
        return Share(min(BESIDE_GPU, max(1, spare // cluster.gpus)) if cluster.gpus else BESIDE_GPU, 1)
    return Share(max(1, spare // (runs * wanted.most)))


def actors_share(recipe: RunConfig) -> Share:
    """Return the CPUs and GPUs of all actors that measure a run beside its training; none without such actors."""
    given = recipe.validation
    return Share(given.actors * given.cpus, given.actors * given.gpus) if given.is_beside else Share(0)


def assign_data_share(recipe: RunConfig, nodes: Sequence[dict[str, Any]], workers: int, cpus: float) -> DataShare:
    """Return the part of each of ``workers`` workers in the CPUs and the object store of nodes with ``data.nodes``.

    Args:
        nodes: as from :func:`list_live_nodes`.
        cpus: CPUs of each worker, on which no data tasks run.
    """
    labels = recipe.data.nodes or {}
    found = [node["Resources"] for node in nodes if has_labels(node, labels)]
    free = sum(each.get("CPU", 0.0) for each in found) - (0 if labels else workers * cpus + actors_share(recipe).cpus)
    memory = sum(each.get("object_store_memory", 0.0) for each in found)
    return DataShare(max(1, int(free) // workers), memory * STORE_SHARE / workers, tuple(sorted(labels.items())))


def count_concurrent_runs(recipe: RunConfig, cluster: Cluster, trials: int) -> int:
    """Return how many of ``trials`` run concurrently, at least 1; one CPU per worker unless the recipe says otherwise.

    Raises:
        ValueError: as :func:`assign_share`.
    """
    share, most = assign_share(recipe, cluster, trials), recipe.resources.most
    apart = actors_share(recipe)
    fit = int(cluster.spare(recipe.data.stream) // (most * share.cpus + apart.cpus))
    if share.gpu or apart.gpus:
        fit = min(fit, int(cluster.gpus // (most * share.gpus + apart.gpus)))
    return max(1, min(trials, fit))


def check_resources(recipe: RunConfig, cluster: Cluster, share: Share, workers: int, lower: str, runs: int = 1) -> None:
    """Refuse workers that would wait forever; print a note if they wait for a cluster that may grow.

    The same holds for actors that measure beside training.

    Args:
        workers: number of workers that must run at the same time.
        runs: number of runs that must run at the same time.
        lower: names of the settings that the user can lower, for the message.

    Raises:
        ValueError: if the cluster was started by raysde and has too few CPUs or GPUs.
    """
    spare, needed, least = cluster.spare(recipe.data.stream), workers * share.cpus, recipe.resources.least
    apart = actors_share(recipe)
    if needed > spare:
        said = f"{workers} workers at once with {share.cpus} CPUs each need {needed} CPUs, the cluster has {spare}"
        said += " beside those for data tasks" if recipe.data.stream == "ray" else ""
    elif share.gpu and cluster.gpus < least:
        said = f"{least} workers need {least} GPUs, the cluster has {cluster.gpus}"
    elif needed + runs * apart.cpus > spare:
        said = (
            f"validation.where=beside: the actors need {runs * apart.cpus:g} CPUs beside the {needed:g} of workers, "
            f"and the cluster has {spare}"
        )
        said += " beside those for data tasks" if recipe.data.stream == "ray" else ""
        lower += ", or set validation.where=workers"
    elif apart.gpus and runs * apart.gpus + (workers if share.gpu else 0) > cluster.gpus:
        said = (
            f"validation.where=beside: the actors need {runs * apart.gpus:g} GPUs beside the "
            f"{workers if share.gpu else 0} of workers, and the cluster has {cluster.gpus}"
        )
        lower = "validation.gpus or resources.workers"
    else:
        return
    if not cluster.joined:
        raise ValueError(f"{said}: lower {lower}")
    print(f"{said}: workers wait until the cluster grows; if it does not grow, lower {lower}", flush=True)


def count_workers(units: int, found: Mapping[str, float]) -> tuple[int, Share]:
    """Return how many workers process ``units`` independent units of work, and the share of each worker.

    Args:
        found: amount of each cluster resource by its Ray name, such as CPU and GPU.
    """
    gpus = int(found.get("GPU", 0))
    return max(1, min(units, gpus or int(found.get("CPU", 1)) - 1)), Share(1, int(gpus > 0))


def worker_share(workers: int, device: str | None) -> Share:
    """Return the share of each of ``workers`` workers on the cluster that this process is connected to.

    Workers on GPUs reserve no CPUs, since they need little CPU time.

    Args:
        device: torch device such as cpu or cuda; None selects GPUs if the cluster has some.
    """
    nodes = [node["Resources"] for node in list_live_nodes()]
    gpus = [node.get("GPU", 0.0) for node in nodes]
    if any(gpus) if device is None else torch.device(device).type == "cuda":
        return Share(0.0, min(1.0, largest_share(gpus, workers)), "cuda")
    return Share(largest_share([node.get("CPU", 0.0) for node in nodes], workers), 0.0, device or "cpu")


def largest_share(nodes: Sequence[float], workers: int) -> float:
    """Return the largest equal share that fits ``workers`` workers: a whole number of units, or 1/k of a unit.

    Args:
        nodes: units (CPUs or GPUs) of each node. Without any unit the share is 1, for a cluster that may grow.
    """
    units = [int(node) for node in nodes if node >= 1.0]
    if not units:
        return 1.0
    if sum(units) < workers:
        return 1.0 / -(-workers // sum(units))
    return float(next(each for each in range(max(units), 0, -1) if sum(unit // each for unit in units) >= workers))


def release_orphaned_placement_groups() -> None:
    """Remove this job's placement groups whose creator is a dead actor.

    Ray keeps such a group until the job ends. Ray Train 2.60 removes the group of a dead controller only once its
    workers have started (see also ray-project/ray#62753). Without free CPUs the next controller would wait forever.
    """
    assert ray.is_initialized()  # the calls below would start a cluster
    job = ray.get_runtime_context().get_job_id()
    for listed in state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(listed)
        by_actor = group.creator_actor_id not in (b"", ActorID.nil().binary())  # the driver's groups count as dead too
        orphaned = by_actor and group.creator_actor_dead and not group.is_detached
        if orphaned and group.creator_job_id.hex() == job and group.state != PlacementGroupTableData.REMOVED:
            remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))
