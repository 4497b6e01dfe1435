"""Elastic worker groups that leave CPUs to the data tasks which feed them."""

from typing import Any

import ray.train
import ray.train.torch
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy

from raysde.cluster.resources import survey_cluster


class ElasticBesideData(ElasticScalingPolicy):
    """A policy that keeps one CPU per node free, as :func:`raysde.cluster.resources.assign_share` does at the start.

    Ray Train 2.60 counts every CPU of the cluster for workers. Where they fit exactly, its workers take all CPUs, data
    tasks never run, and training waits for its first batch without end.
    """

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        possible = super()._count_possible_workers(reserved_resources)
        each = self.scaling_config._resources_per_worker_not_none.get("CPU", 0)
        return possible if each == 0 else min(possible, int(survey_cluster().spare("ray") // each))


class TorchTrainer(ray.train.torch.TorchTrainer):
    """Ray Train's trainer, whose elastic worker groups leave CPUs to Ray Data if it reads the data."""

    def _initialize_and_run_controller(self, **settings: Any) -> ray.train.Result:
        if isinstance(settings["scaling_policy"], ElasticScalingPolicy) and self.datasets:
            settings["scaling_policy"] = ElasticBesideData(self.scaling_config)
        return super()._initialize_and_run_controller(**settings)
