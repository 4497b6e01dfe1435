"""Placement groups that a dead actor leaves, on a real cluster."""

import os
import signal
import time

import pytest
import ray
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group

from raysde.cluster.resources import release_orphaned_placement_groups

pytestmark = pytest.mark.usefixtures("cluster")


@ray.remote(num_cpus=0)
class Creator:
    """An actor that reserves CPUs, as Ray Train's controller does."""

    def reserve(self, cpus: float, name: str = "") -> str:
        group = placement_group([{"CPU": cpus}], lifetime="detached" if name else None, name=name)
        assert group.wait(60)
        return group.id.hex()

    def pid(self) -> int:
        return os.getpid()

    def work(self) -> None:
        time.sleep(600)


def kill(creator) -> None:
    """Kill an actor at work, and wait until the driver knows, by the error that the driver of a run sees."""
    pid, working = ray.get(creator.pid.remote()), creator.work.remote()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(working, timeout=60)


def state(group: str) -> str:
    return placement_group_table()[group]["state"]


def test_cpus_that_a_dead_controller_reserved_are_free_for_the_next():
    everything = ray.cluster_resources()["CPU"]
    for _ in range(3):
        creator = Creator.remote()
        left = ray.get(creator.reserve.remote(everything))
        kill(creator)
        assert state(left) == "CREATED"  # Ray keeps it until the job ends
        release_orphaned_placement_groups()
        assert state(left) == "REMOVED"
        next_group = placement_group([{"CPU": everything}])
        assert next_group.wait(60)
        remove_placement_group(next_group)


def test_placement_groups_of_others_stay():
    """Groups stay if the driver, a living actor, or an actor that made them detached created them."""
    living, dying = Creator.remote(), Creator.remote()
    own = placement_group([{"CPU": 0.5}])
    assert own.wait(60)
    kept = [own.id.hex(), ray.get(living.reserve.remote(0.5)), ray.get(dying.reserve.remote(0.5, "lasting"))]
    kill(dying)
    release_orphaned_placement_groups()
    assert [state(group) for group in kept] == ["CREATED"] * 3
    remove_placement_group(own)
    remove_placement_group(ray.util.get_placement_group("lasting"))
