"""What of a cluster training gets: how many runs are under way at once, and what each of their workers has."""

from dataclasses import dataclass

import ray

from raysde.cluster.connection import joins
from raysde.cluster.placement import alive
from raysde.config.loading import RunConfig

BESIDE_GPU = 4
"""CPUs of a worker on a GPU, if there are so many."""


@dataclass(frozen=True)
class Share:
    """What each worker gets: CPUs (and as many torch threads) and whether a GPU."""

    cpus: int
    gpu: bool


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


def survey() -> Cluster:
    """The cluster that this process is connected to."""
    found = ray.cluster_resources()
    return Cluster(int(found.get("CPU", 1)), int(found.get("GPU", 0)), len(alive()), joins())


def share_out(recipe: RunConfig, cluster: Cluster, runs: int = 1) -> Share:
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
        return Share(wanted.cpus_per_worker, gpu)
    if gpu:
        return Share(min(BESIDE_GPU, max(1, spare // cluster.gpus)) if cluster.gpus else BESIDE_GPU, gpu)
    return Share(max(1, spare // (runs * wanted.most)), gpu)


def runs_at_once(recipe: RunConfig, cluster: Cluster, trials: int) -> int:
    """How many of ``trials`` fit, with a CPU for each worker if nobody says otherwise; one at least.

    Raises:
        ValueError: as :func:`share_out`.
    """
    share, most = share_out(recipe, cluster, trials), recipe.resources.most
    fit = cluster.spare(recipe.data.stream) // (most * share.cpus)
    return max(1, min(trials, fit, cluster.gpus // most if share.gpu else fit))


def check_room(recipe: RunConfig, cluster: Cluster, share: Share, workers: int, lower: str) -> None:
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
