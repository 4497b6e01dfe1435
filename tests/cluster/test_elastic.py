"""Restarts with another number of workers: no row is lost, repeated or out of order."""

import json
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import ray

from raysde import tracking
from raysde.checkpoints import checkpoint
from raysde.cluster.resources import DataShare
from raysde.cluster.stream import read_stream
from raysde.cluster.train import run_worker_group
from raysde.config import loading
from raysde.data.batches.blocks import StreamSpec
from raysde.data.batches.plan import Plan
from raysde.data.batches.reference import DataReference
from raysde.runs.local import train_here
from raysde.runs.run import open_run
from tests.support.digits import write_digit_shards
from tests.support.training import Recorded, small_recipe

ROWS, BATCH, MICRO = 180, 24, 6


@ray.remote(num_cpus=0.1)
def until(spec, rank, world, step):
    """Return the rows that a rank sees from the beginning of a stream up to ``step``, where its worker group is
    killed."""
    seen = []
    for batches in read_stream(spec, 1, rank, world, lambda: DataShare(tasks=1, bytes=200.0)):
        seen += [(batch.step, batch.index, batch.rows.tolist()) for batch in batches]
        if batches[0].step + 1 == step:
            return seen
    return seen


def run_group(spec, stop, world):
    """Return the rows of a worker group that reads a stream and is killed after step ``stop``."""
    shares = ray.get([until.remote(spec, rank, world, stop) for rank in range(world)], timeout=120)
    return sorted((entry for share in shares for entry in share), key=lambda entry: entry[:2])


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_three_epochs_with_restarts_are_the_plan(digits):
    """World sizes 1, 2, 4, 2 and 3, with restarts at random steps, give (step, microbatch, rows) of the plan, in
    order."""
    last = -(-3 * ROWS // BATCH)
    data = DataReference(path=digits.path, fingerprint=digits.fingerprint, validation=digits.rows - ROWS,
                         plan=Plan(rows=ROWS, batch=BATCH, microbatch=MICRO, seed=5))  # fmt: skip
    spec = StreamSpec(data=data, start=0, stop=last, block_steps=4)
    feed, _ = data.open()
    cuts = sorted(np.random.default_rng(3).choice(np.arange(1, last), 4, replace=False).tolist())
    seen = []
    for start, stop, world in zip([0, *cuts], [*cuts, last], (1, 2, 4, 2, 3), strict=True):
        seen += run_group(replace(spec, start=start), stop, world)
    expected = [(step, index, feed.rows[feed.plan.rows_of(step, index)].tolist())
                for step in range(last) for index in range(BATCH // MICRO)]  # fmt: skip
    assert seen == expected
    counts = np.bincount([row for *_, chosen in seen[: 3 * ROWS // MICRO] for row in chosen], minlength=digits.rows)
    assert set(counts[feed.rows[np.arange(ROWS)]]) == {3}


@pytest.fixture
def nodes():
    from ray.cluster_utils import Cluster

    ray.shutdown()  # leaves the cluster that other tests of this file share
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3})
    ray.init(address=cluster.address, logging_level="WARNING")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_grows_and_shrinks_with_its_cluster(nodes, tmp_path):
    """With resources.workers=[1, 2], a run uses one node, two when a second comes, and one when it goes. Every step
    runs once, with the losses of the bare loop to 1e-5."""
    manifest = write_digit_shards(tmp_path / "shards")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    network = {"kind": "external", "factory": "tests.cluster.networks:Slow"}
    changes = {"network": network, "train__length__steps": 200, "checkpoint_every": 10, "train__microbatch": 4,
               "resources__cpus_per_worker": 2, "tracking__uri": uri}  # fmt: skip
    tree = small_recipe(manifest, tmp_path / "runs", **changes, resources__workers=[1, 2], resources__resize_every=5.0)
    run = open_run(loading.parse_recipe(tree))
    client = tracking.connect_client(uri)
    run_id = tracking.open_mlflow_run(client, "e", "small", {}, None)
    job = threading.Thread(target=lambda: run_worker_group(run, tracking_uri=uri, run_id=run_id, started=time.time()))
    job.start()
    reached(tmp_path, 20)
    second = nodes.add_node(num_cpus=3)  # one stays free for data tasks
    wait_for(lambda: workers() == 2, "a second worker")
    reached(tmp_path, newest(tmp_path) + 30)
    nodes.remove_node(second)
    wait_for(lambda: workers() == 1, "one worker again")
    job.join(300)
    assert not job.is_alive()
    history = client.get_metric_history(run_id, "train/loss")
    assert [metric.step for metric in history] == list(range(1, 201))
    alone = Recorded()
    bare = small_recipe(manifest, tmp_path / "bare", **changes)
    train_here(open_run(loading.parse_recipe(bare)), alone)
    losses = alone.of("train/loss")
    assert [metric.value for metric in history] == pytest.approx([losses[step] for step in range(1, 201)], rel=1e-5)


def workers() -> int:
    """Return the number of live training workers."""
    from ray.util.state import list_actors

    return sum(actor.state == "ALIVE" and "RayTrainWorker" in actor.class_name for actor in list_actors())


def newest(folder) -> int:
    found = checkpoint.find_newest_checkpoint(folder / "runs" / "small")
    return 0 if found is None else json.loads((found / "checkpoint.json").read_text())["state"]["step"]


def reached(folder, step) -> None:
    wait_for(lambda: newest(folder) >= step, f"step {step}")


def wait_for(condition, what, seconds=180.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"no {what} in {seconds} s"
        time.sleep(1.0)
