"""Count the steps that a run repeats after it left on purpose: a resize, the drain of a node, and a stopped job.

    python benchmarks/scale_leaving.py [--work DIR]

Prints rows of a table: measure, value, bar. The run writes no checkpoint of its own accord; its network counts its
training calls in files, one of each process. Steps of the first worker group minus the step that the next one begins at
are repeated. The clusters are Ray nodes on this machine. The drain's deadline is 30 seconds; a stopped job has
the 3 seconds that Ray gives it. Takes about five minutes on two cores.
"""

import argparse
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch.distributed as dist
import yaml
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from raysde.networks import UNet, UNetConfig

RAY = str(Path(sys.executable).with_name("ray"))
STEPS, DEADLINE = 2000, 30
CALLS = "calls"


class Counted(UNet):
    """A small network that sleeps in each training call, and adds a byte to the file of its process."""

    def __init__(self, image: tuple[int, int, int], condition: int | None, place: str, pause: float) -> None:
        size = UNetConfig(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), head_channels=8)
        super().__init__(size, image, condition)
        self.place, self.pause, self.calls = Path(place), pause, 0

    def forward(self, *inputs: Tensor) -> Tensor:
        if self.training:
            time.sleep(self.pause)
            world = dist.get_world_size() if dist.is_initialized() else 1
            self.calls += 1
            if world == 1 or self.calls > 1:  # the loop's first call of several ranks warms up
                with (self.place / f"{world}-{os.getpid()}").open("ab") as out:
                    out.write(b".")
        return super().forward(*inputs)


def make_recipe(work: Path, **changes: Any) -> dict[str, Any]:
    """Return a recipe without checkpoints before its end, with two microbatches in a step."""
    from tests.support.digits import write_digit_shards
    from tests.support.training import small_recipe

    (work / CALLS).mkdir(parents=True)
    manifest = write_digit_shards(work / "shards")
    network = {"kind": "external", "factory": "benchmarks.scale_leaving:Counted",
               "kwargs": {"place": str(work / CALLS), "pause": 0.05}}  # fmt: skip
    return small_recipe(
        manifest, work / "runs", network=network, train__length__steps=STEPS, train__microbatch=8, text=None,
        checkpoint_every=100_000, validation__rows=0, sampling__every=0, resources__max_failures=0,
        keep_checkpoints=10, tracking__uri=f"sqlite:///{work / 'mlflow.db'}", **changes,
    )  # fmt: skip


def steps_of(work: Path, world: int) -> int:
    """Return the steps that groups of ``world`` workers trained."""
    return sum(path.stat().st_size for path in (work / CALLS).glob(f"{world}-*")) // 2


def saved_steps(work: Path) -> list[int]:
    """Return the steps of all checkpoints."""
    return sorted(int(path.name[5:]) for path in (work / "runs" / "small").glob("step_*"))


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"no {what} in {seconds:.0f} s")
        time.sleep(0.1)


def measure_changes(work: Path) -> dict[str, int]:
    """Return the steps repeated after a run grew from one node to two, and after the second one was drained."""
    import ray
    from ray.cluster_utils import Cluster

    from raysde import tracking
    from raysde.cluster.train import run_worker_group
    from raysde.config import loading
    from raysde.runs.run import open_run

    os.environ.pop("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", None)  # off where raysde starts Ray itself
    settings = {"resources__cpus_per_worker": 2, "resources__workers": [1, 2], "resources__resize_every": 5.0}
    run = open_run(loading.parse_recipe(make_recipe(work, **settings)))
    uri = run.config.tracking.uri
    assert uri is not None
    run_id = tracking.open_mlflow_run(tracking.connect_client(uri), "e", "small", {}, None)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3})
    ray.init(address=cluster.address, logging_level="WARNING")
    failed: list[Exception] = []

    def train() -> None:
        try:
            run_worker_group(run, tracking_uri=uri, run_id=run_id, started=time.time())
        except Exception as error:
            failed.append(error)

    threading.Thread(target=train, daemon=True).start()
    try:
        wait_for(lambda: steps_of(work, 1) >= 5, "fifth step")
        second = cluster.add_node(num_cpus=3)  # one stays free for data tasks
        wait_for(lambda: bool(saved_steps(work) or failed), "checkpoint at the resize")
        (resized,) = saved_steps(work)
        alone = steps_of(work, 1)
        wait_for(lambda: steps_of(work, 2) >= 5 or bool(failed), "step of two workers")
        drain(cluster.address, second.node_id)
        wait_for(lambda: len(saved_steps(work)) == 2 or bool(failed), "checkpoint at the drain", DEADLINE + 10.0)
        _, drained = saved_steps(work)
        together = steps_of(work, 2)
        wait_for(lambda: steps_of(work, 1) >= alone + 3 or bool(failed), "step after the drain")
        if failed:
            raise failed[0]
        return {"resize": alone - resized, "drain": resized + together - drained}
    finally:
        ray.shutdown()
        cluster.shutdown()


def drain(address: str, node: str) -> None:
    """Tell the cluster that a node is going to be taken away."""
    command = [RAY, "drain-node", "--address", address, "--node-id", node, "--reason", "DRAIN_NODE_REASON_PREEMPTION",
               "--reason-message", "a benchmark", "--deadline-remaining-seconds", str(DEADLINE)]  # fmt: skip
    subprocess.run(command, check=True, timeout=60, capture_output=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def started_head(work: Path) -> Iterator[dict[str, str]]:
    """Start a head by hand, and yield the environment of its clients."""
    dashboard = free_port()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment.update(RAY_AUTH_MODE="token", HOME=str(work), RAY_API_SERVER_ADDRESS=f"http://127.0.0.1:{dashboard}")
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    subprocess.run([RAY, "get-auth-token", "--generate"], env=environment, check=True, capture_output=True, timeout=240)
    # in the foreground, so that only its processes are ended; `ray stop` would end those of all clusters
    command = [RAY, "start", "--head", "--block", f"--port={free_port()}", "--num-cpus=3",
               f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={free_port()}",
               "--disable-usage-stats"]  # fmt: skip
    with (work / "head.log").open("wb") as output:
        head = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=output, stderr=output)
    try:
        wait_for(lambda: is_listening(dashboard), "dashboard")
        yield environment
    finally:
        head.kill()
        head.wait(60)


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def measure_job_stop(work: Path) -> dict[str, int]:
    """Return the steps that a job would repeat which was stopped with `ray job stop`."""
    tree = make_recipe(work, resources__cpus_per_worker=1)
    (work / "recipe.yaml").write_text(yaml.safe_dump(tree))
    with started_head(work) as environment:

        def job(*arguments: str) -> str:
            done = subprocess.run(
                [RAY, "job", *arguments], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=240
            )
            return done.stdout + done.stderr

        job("submit", "--no-wait", "--submission-id", "stopped", "--working-dir", ".", "--", "python",
            "jobs/train.py", str(work / "recipe.yaml"))  # fmt: skip
        wait_for(lambda: steps_of(work, 1) >= 20, "twentieth step")
        answer = job("stop", "stopped")
        if "stopped" not in answer:
            raise RuntimeError(answer)
        wait_for(lambda: bool(saved_steps(work)), "checkpoint of the stopped job", 30.0)
        time.sleep(3.0)  # no step comes later
        return {"job stop": steps_of(work, 1) - saved_steps(work)[-1]}


def print_rows(work: Path) -> None:
    """Print the rows of the table."""
    repeated = {**measure_changes(work / "changes"), **measure_job_stop(work / "stop")}
    for what, name in (("resize", "a planned resize"), ("drain", "a node drain"), ("job stop", "a job stop")):
        print(f"| steps repeated after {name} | {repeated[what]} | ≤ 1 |", flush=True)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--work", type=Path)
    given = arguments.parse_args()
    with contextlib.nullcontext(given.work) if given.work else tempfile.TemporaryDirectory() as work:
        print("| measure | value | bar |\n|---|---|---|")
        print_rows(Path(work))


if __name__ == "__main__":
    main()
