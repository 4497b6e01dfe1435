"""A cluster started by raysde uses its own address, whatever other clusters run on the machine."""

import json
import os
import subprocess
import sys

import pytest
import ray

from raysde.cluster.connection import joins_existing_cluster, worker_environment
from tests.support.paths import ROOT

OTHER = """
import sys
from raysde.cluster.connection import connect
connect()
import ray
print("up", ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


JOINING = """
import ray
from raysde.cluster.connection import connect
connect()

@ray.remote(num_cpus=0, lifetime="detached", name="asked")
class Asked:
    def nodes(self):
        from ray.util.state import list_nodes
        return [node.node_id for node in list_nodes()]

asked = Asked.remote()
assert ray.get(asked.nodes.remote(), timeout=120) == [node["NodeID"] for node in ray.nodes()]
ray.kill(asked)
print("its own")
"""


@pytest.fixture
def neighbour(cluster):
    """Yield the address of a second local cluster, of another process."""
    process = subprocess.Popen([sys.executable, "-c", OTHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    said = process.stdout.readline()
    assert said.startswith("up ")
    yield said.split()[1]
    process.stdin.close()
    process.wait(60)


@pytest.mark.timeout(180)
def test_processes_of_a_cluster_ask_their_own(neighbour):
    """Ray's state API must find one cluster where two run: Ray Train uses it to free the CPUs of a stopped run."""

    @ray.remote
    def asked() -> tuple[list[str], bool]:
        from ray.util.state import list_nodes

        return [node.node_id for node in list_nodes()], joins_existing_cluster()

    nodes, joined = ray.get(asked.remote(), timeout=120)
    assert nodes == [node["NodeID"] for node in ray.nodes()]
    assert not joined


@pytest.mark.timeout(240)
def test_processes_of_a_cluster_that_others_started_ask_it(neighbour):
    """This includes an actor that outlives its driver's environment, like the one that frees CPUs for Ray Train."""
    environment = {**os.environ, "RAY_ADDRESS": neighbour}
    done = subprocess.run(
        [sys.executable, "-c", JOINING], capture_output=True, text=True, timeout=200, cwd=ROOT, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("its own\n")


@pytest.mark.parametrize(
    ("address", "job", "given"),
    [
        ("10.0.0.7:6379", {}, {"env_vars": {"RAY_ADDRESS": "10.0.0.7:6379"}}),
        ("10.0.0.7:6379", {"working_dir": "x", "env_vars": {"A": "1"}}, {"env_vars": {"RAY_ADDRESS": "10.0.0.7:6379"}}),
        ("10.0.0.7:6379", {"env_vars": {"RAY_ADDRESS": "10.0.0.8:6379"}}, None),
        ("ray://10.0.0.7:10001", {}, None),
    ],
)
def test_processes_of_another_cluster_get_its_address(monkeypatch, address, job, given):
    """Processes get the address unless the job sets it; Ray refuses a variable that is set twice."""
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": job}))
    assert worker_environment(address) == given


def test_the_driver_forgets_the_address(cluster):
    """A later session of the same process starts a new cluster."""
    assert not joins_existing_cluster()


def test_the_word_local_asks_for_a_cluster_of_ones_own(monkeypatch):
    """RAY_ADDRESS=local has the same meaning for Ray."""
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert not joins_existing_cluster()
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert joins_existing_cluster()
