"""Shares of a cluster for training, by closed formulas; no test here needs a cluster."""

import pytest
import ray.train.torch
from ray.train import ScalingConfig
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy, FixedScalingPolicy

from raysde.cluster.elastic import DataTasks, ElasticBesideData, TorchTrainer
from raysde.cluster.resources import Cluster, Share, assign_share
from raysde.cluster.train import own_share
from raysde.config import loading
from raysde.runs.run import open_run


@pytest.mark.parametrize(
    ("found", "changes", "expected"),
    [
        (Cluster(3), {}, Share(2, False)),
        (Cluster(1), {}, Share(1, False)),
        (Cluster(16, nodes=2), {"resources__workers": 2}, Share(7, False)),
        (Cluster(16, 2), {"resources__workers": 2}, Share(4, True)),
        (Cluster(16, 1), {"resources__workers": 2}, Share(7, False)),
        (Cluster(16, 2), {"resources__workers": [2, 4]}, Share(4, True)),
        (Cluster(16, 1), {"resources__cpus_per_worker": 3}, Share(3, True)),
        (Cluster(5, 2), {"resources__workers": 2}, Share(2, True)),
        (Cluster(16, nodes=2, joined=True), {"resources__workers": 2}, Share(7, False)),
        (Cluster(16, nodes=2, joined=True), {"resources__workers": 2, "data__stream": "worker"}, Share(8, False)),
        (Cluster(3), {"data__stream": "worker"}, Share(2, False)),  # a cluster of raysde counts one too many
    ],
)
def test_resources_are_shared_out(recipe, found, changes, expected):
    """One CPU per node is reserved for Ray Data, if it reads."""
    assert assign_share(loading.parse_recipe(recipe(**{"data__stream": "ray", **changes})), found) == expected


@pytest.mark.parametrize(
    ("found", "changes", "said"),
    [
        (Cluster(3), {"workers": 4}, "4 workers at once with 1 CPUs each need 4 CPUs, the cluster has 2 beside"),
        (Cluster(3), {"workers": [3, 4], "cpus_per_worker": 2}, "3 workers at once with 2 CPUs each need 6 CPUs"),
        (Cluster(1, joined=True), {}, "1 workers at once with 1 CPUs each need 1 CPUs, the cluster has 0 beside"),
        (Cluster(9, 1, joined=True), {"workers": 2, "gpu": True}, "2 workers need 2 GPUs, the cluster has 1"),
        (Cluster(3), {"workers": [1, 4], "cpus_per_worker": 2}, None),
        (Cluster(3, joined=True), {"workers": 2}, None),
    ],
)
def test_workers_that_would_wait_are_named(recipe, monkeypatch, capsys, found, changes, said):
    """This machine cannot grow, but a joined cluster may."""
    changes = {f"resources__{key}": value for key, value in changes.items()}
    run = open_run(loading.parse_recipe(recipe(data__stream="ray", **changes)))
    monkeypatch.setattr("raysde.cluster.train.survey_cluster", lambda *_: found)
    if said is None or found.joined:
        own_share(run)
        assert (said or "") in (shown := capsys.readouterr().out)
        assert bool(shown) == (said is not None)
        return
    with pytest.raises(ValueError, match=said):
        own_share(run)


def test_too_few_gpus_are_named(recipe):
    with pytest.raises(ValueError, match=r"resources\.gpu.*0 GPUs"):
        assign_share(loading.parse_recipe(recipe(resources__gpu=True)), Cluster(4))


@pytest.mark.parametrize(
    ("nodes", "cpus", "most", "expected"),
    [
        ([3], 1, 4, 2),  # a machine with two cores, on which three workers would fit
        ([3, 3, 3, 3], 3, 4, 2),
        ([3, 3, 3, 3], 2, 4, 4),
        ([8, 8], 2, 16, 7),
        ([8, 8], 2, 4, 4),
        ([2], 2, 4, 0),
    ],
)
def test_elastic_workers_leave_a_cpu_on_each_node(monkeypatch, nodes, cpus, most, expected):
    """Ray Train's own count fills every CPU, so that data tasks would wait for workers, and workers for data."""
    cluster = Cluster(sum(nodes), nodes=len(nodes), joined=True)
    monkeypatch.setattr("raysde.cluster.elastic.survey_cluster", lambda nodes: cluster)
    config = ScalingConfig(num_workers=(1, most), resources_per_worker={"CPU": cpus})
    reserved = {str(number): {"CPU": float(node)} for number, node in enumerate(nodes)}
    assert ElasticBesideData(config, DataTasks("ray"))._count_possible_workers(reserved) == expected
    greedy = min(most, sum(node // cpus for node in nodes))
    assert ElasticScalingPolicy(config)._count_possible_workers(reserved) == greedy


@pytest.mark.parametrize(("workers", "expected"), [((1, 2), ElasticBesideData), (2, FixedScalingPolicy)])
def test_the_policy_of_a_run(monkeypatch, workers, expected):
    """The policy knows where the run's data tasks run; a fixed number of workers needs none."""
    config, ran, tasks = ScalingConfig(num_workers=workers), [], DataTasks("worker", {"raysde": "data"})
    policy = FixedScalingPolicy(config) if workers == 2 else ElasticScalingPolicy(config)
    theirs = lambda self, **settings: ran.append(settings["scaling_policy"])  # noqa: E731
    monkeypatch.setattr(ray.train.torch.TorchTrainer, "_initialize_and_run_controller", theirs)
    trainer = TorchTrainer(lambda: None, scaling_config=config, tasks=tasks)
    trainer._initialize_and_run_controller(scaling_policy=policy)
    assert type(ran[0]) is expected
    assert getattr(ran[0], "tasks", tasks) == tasks
