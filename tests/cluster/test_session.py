"""A cluster that was started here knows itself, whatever else runs on the machine."""

import subprocess
import sys

import pytest
import ray

from raysde.cluster.session import joins

OTHER = """
import sys
from raysde.cluster.session import connect
connect()
print("up", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def neighbour(cluster):
    """A second local cluster, of another process."""
    process = subprocess.Popen([sys.executable, "-c", OTHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "up\n"
    yield
    process.stdin.close()
    process.wait(60)


@pytest.mark.timeout(180)
def test_processes_of_a_cluster_ask_their_own(neighbour):
    """Ray's state API finds one cluster where two run: Ray Train takes back the CPUs of a stopped run by it."""

    @ray.remote
    def asked() -> tuple[list[str], bool]:
        from ray.util.state import list_nodes

        return [node.node_id for node in list_nodes()], joins()

    nodes, joined = ray.get(asked.remote(), timeout=120)
    assert nodes == [node["NodeID"] for node in ray.nodes()]
    assert not joined


def test_the_driver_forgets_the_address(cluster):
    """A later session of the same process starts a cluster of its own."""
    assert not joins()


def test_the_word_local_asks_for_a_cluster_of_ones_own(monkeypatch):
    """As Ray takes it."""
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert not joins()
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert joins()
