"""cluster.yaml passes the schema of Ray's launcher, which starts the nodes that it says."""

import copy
import json
import re
from collections import Counter
from functools import partial
from pathlib import Path

import boto3
import jsonschema
import pytest
import ray
import yaml
from moto import mock_aws

from tests.support.paths import ROOT

SCHEMA = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())


@pytest.fixture
def cluster() -> dict:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def test_it_fits_rays_schema(cluster):
    jsonschema.validate(cluster, SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**cluster, "workers": 3}, SCHEMA)


def test_image_and_packages_are_the_pinned_ones(cluster):
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    images = [cluster["docker"]["image"]]
    images += [kind["docker"]["worker_image"] for kind in cluster["available_node_types"].values() if "docker" in kind]
    assert len(images) == 2
    assert all(re.match(rf"rayproject/ray:{re.escape(pinned['ray'])}-py311", image) for image in images)
    assert pinned["torch"] == "2.13.0"
    (install,) = cluster["setup_commands"]
    assert "constraints.txt" in install
    checkout = {source: target for target, source in cluster["file_mounts"].items()}["."]
    assert checkout in install


def test_the_head_runs_no_task_and_workers_scale(cluster):
    types = cluster["available_node_types"]
    assert types[cluster["head_node_type"]]["resources"] == {"CPU": 0}
    workers = [kind for name, kind in types.items() if name != cluster["head_node_type"]]
    assert all(kind["min_workers"] == 0 < kind["max_workers"] for kind in workers)
    assert sum(kind["max_workers"] for kind in workers) == cluster["max_workers"]


def test_shared_memory_grows_with_the_node(cluster):
    """Ray measures a node's memory and sizes /dev/shm after it, unless the options of docker do."""
    docker = cluster["docker"]
    assert not any("shm-size" in option for option in docker["run_options"])
    assert not docker.get("disable_shm_size_detection")


@pytest.mark.parametrize(
    ("demand", "nodes"),
    [
        ([{"CPU": 1}] * 20, {"data_worker": 2}),  # tasks of Ray Data
        ([{"CPU": 4, "GPU": 1}] * 3, {"gpu_worker": 3}),  # training workers, each with its share beside a GPU
        ([{"CPU": 4, "GPU": 1}] * 2 + [{"CPU": 1}] * 24, {"gpu_worker": 2, "data_worker": 1}),
    ],
)
def test_tasks_start_data_nodes_and_workers_start_gpu_nodes(cluster, demand, nodes):
    """Ray's own choice of nodes to launch beside the head."""
    from ray.autoscaler._private.resource_demand_scheduler import _default_utilization_scorer, get_nodes_for

    scorer = partial(_default_utilization_scorer, node_availability_summary=None)
    types, head = cluster["available_node_types"], cluster["head_node_type"]
    added, rest = get_nodes_for(types, Counter({head: 1}), head, cluster["max_workers"], demand, scorer)
    assert (added, rest) == (nodes, [])


@mock_aws
def test_the_launcher_asks_ec2_for_the_image_and_the_profile(cluster, tmp_path, monkeypatch):
    """Ray's launcher prepares the file and launches a node of each kind at moto's EC2: no image of Ray's own, which is
    of 2021, and no node without the right to use the bucket."""
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    monkeypatch.setenv("HOME", str(tmp_path))  # the launcher writes the key of its nodes there
    (tmp_path / ".ssh").mkdir()
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "key")
    for profile in ("raysde-head", "raysde-node"):
        boto3.client("iam").create_instance_profile(InstanceProfileName=profile)
    prepared = bootstrap_aws(copy.deepcopy(cluster))
    provider = AWSNodeProvider(prepared["provider"], cluster["cluster_name"])
    for name, kind in prepared["available_node_types"].items():
        (node,) = provider.create_node(kind["node_config"], {}, 1).values()
        profile = "raysde-head" if name == "head" else "raysde-node"
        assert node.iam_instance_profile["Arn"].endswith(f"/{profile}")
        assert node.image_id.startswith("resolve:ssm:/aws/service/deeplearning/ami/x86_64/")
