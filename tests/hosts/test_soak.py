"""Random faults, one after another, while a run trains on as many hosts as there are: `make soak`.

RAYSDE_SOAK_SEED and RAYSDE_SOAK_FAULTS choose other faults and another number of them.
"""

import os
import random
from collections import Counter

import pytest

from tests.hosts.cluster import CPUS, Cluster
from tests.hosts.runs import EVERY, Submitted, bare_losses, close, upload_digits

SEED = int(os.environ.get("RAYSDE_SOAK_SEED", "24"))
FAULTS = int(os.environ.get("RAYSDE_SOAK_FAULTS", "20"))
MOST, FEWEST = 4, 2
"""Hosts; the first one is the head, whose loss ends a job."""
CUT = 20.0
"""Seconds for which a link is cut."""
STEPS_PER_FAULT = 40
"""Length of the run for each fault; a run that ended before the last fault would show less."""

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600 + 240 * FAULTS)]


def choose_fault(cluster: Cluster, done: Counter, draw: random.Random) -> str:
    """Return one of the rarest kinds of faults so far that leave from FEWEST to MOST hosts."""
    kinds = ["cut"]
    kinds += ["kill", "drain"] if len(cluster.hosts) > FEWEST else []
    kinds += ["add"] if len(cluster.hosts) < MOST else []
    fewest = min(done[kind] for kind in kinds)
    return draw.choice([kind for kind in kinds if done[kind] == fewest])


def disturb(cluster: Cluster, kind: str, draw: random.Random) -> str:
    """Do what the fault says to a random host other than the head, and return a line that describes it."""
    host = cluster.add() if kind == "add" else draw.choice(cluster.hosts[1:])
    if kind == "kill":
        cluster.kill(host)
    elif kind == "drain":
        cluster.drain(host)
    elif kind == "cut":
        cluster.cut(host, CUT)
    return f"{kind} {host.machine.name}"


def test_random_faults_change_nothing(cluster, tmp_path):
    """Every planned row is seen once, every step is logged once, and the losses are those of the bare loop."""
    print(f"seed {SEED}, {FAULTS} faults", flush=True)
    draw = random.Random(SEED)
    data = upload_digits(cluster, tmp_path / "shards")
    steps = STEPS_PER_FAULT * FAULTS + 2 * EVERY
    run = Submitted(
        cluster, data, "soak", seconds=0.2, resources__workers=[1, MOST], resources__resize_every=10.0,
        train__length__steps=steps,
    )  # fmt: skip
    done = Counter()
    for number in range(FAULTS):
        run.reach(run.newest() + EVERY, 300)
        kind = choose_fault(cluster, done, draw)
        done[kind] += 1
        fault = disturb(cluster, kind, draw)
        print(f"fault {number + 1} near step {run.newest()}: {fault}; {len(cluster.hosts)} hosts", flush=True)
        assert cluster.status(run.job) == "RUNNING", cluster.output(run.job)
    cluster.wait_for_end(run.job, 1200)
    repeated = run.check_rows()
    print(f"{repeated} of {steps} steps ran more than once; requests {cluster.services.counted()}")
    print("\n".join(line for line in cluster.output(run.job).splitlines() if "starting again" in line))
    assert run.losses() == close(bare_losses(run.run, run.tree, tmp_path / "bare"))


def test_elastic_workers_leave_a_cpu_for_data(cluster, tmp_path):
    """Workers that could take every CPU of the cluster still get data."""
    data = upload_digits(cluster, tmp_path / "shards")
    run = Submitted(
        cluster, data, "greedy", resources__workers=[1, MOST], resources__cpus_per_worker=CPUS, train__length__steps=10
    )
    cluster.wait_for_end(run.job, 150)
    assert run.check_rows() == 0
