"""Elastic worker groups that leave CPUs to the data tasks which feed them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray.train
import ray.train.torch
from ray.train import ScalingConfig
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy

from raysde.cluster.connection import has_state_api
from raysde.cluster.resources import survey_cluster


@dataclass(frozen=True)
class DataTasks:
    """The data tasks of a run.

    Attributes:
        stream: ``data.stream`` of the recipe; ``worker`` runs no data tasks.
        apart: CPUs of the actors that measure beside training.
        nodes: labels of the nodes that run them; None for all nodes.
    """

    stream: str
    nodes: Mapping[str, str] | None = None
    apart: float = 0


class ElasticBesideData(ElasticScalingPolicy):
    """A policy that keeps CPUs free as :func:`raysde.cluster.resources.assign_share` does at the start.

    Ray Train 2.60 counts every CPU of the cluster for workers. Where they fit exactly, its workers take all CPUs, data
    tasks never run, and training waits for its first batch without end.
    """

    def __init__(self, scaling_config: ScalingConfig, tasks: DataTasks) -> None:
        super().__init__(scaling_config)  # type: ignore[arg-type]
        self.tasks = tasks

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        possible = super()._count_possible_workers(reserved_resources)
        each = self.scaling_config._resources_per_worker_not_none.get("CPU", 0)
        spare = survey_cluster(self.tasks.nodes).spare(self.tasks.stream) - self.tasks.apart
        return possible if each == 0 else min(possible, int(spare // each))


class TorchTrainer(ray.train.torch.TorchTrainer):
    """Ray Train's trainer, whose elastic worker groups leave CPUs to data tasks."""

    def __init__(self, *args: Any, tasks: DataTasks, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.tasks = tasks

    def _create_default_callbacks(self) -> list[Any]:
        # the cleaner removes placement groups of dead controllers, as raysde itself does before a run starts again; it
        # asks the dashboard whether the controller lives
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]
        if has_state_api():
            return callbacks
        return [callback for callback in callbacks if not isinstance(callback, PlacementGroupCleanerCallback)]

    def _initialize_and_run_controller(self, **settings: Any) -> ray.train.Result:
        if isinstance(settings["scaling_policy"], ElasticScalingPolicy):
            settings["scaling_policy"] = ElasticBesideData(self.scaling_config, self.tasks)
        return super()._initialize_and_run_controller(**settings)  # type: ignore[misc]
