"""Runs on a cluster of hosts: submitted as jobs, and compared with what they should have been."""

import json
from pathlib import Path

import pyarrow.fs as pafs
import pytest
from safetensors.torch import load_file

from raysde import tracking
from raysde.checkpoints import storage
from raysde.config import loading
from raysde.data.dataset.manifest import Manifest, read_manifest
from raysde.io.filesystems import open_filesystem
from raysde.runs.identity import list_steps
from raysde.runs.local import train_here
from raysde.runs.run import Run, open_run
from tests.hosts.cluster import Cluster
from tests.hosts.journal import check_rows, read_journals
from tests.hosts.machines import wait_for
from tests.support.digits import write_digit_shards
from tests.support.training import Recorded, small_recipe

EVERY = 10
"""Steps between checkpoints."""


def upload_digits(cluster: Cluster, folder: Path) -> Manifest:
    """Write digits as shards of 40 rows, and copy them to the object store."""
    local = write_digit_shards(folder, shard_rows=40, row_group=20)
    system, inside = open_filesystem(cluster.services.uri("digits"))
    pafs.copy_files(local.path, inside, destination_filesystem=system)
    return read_manifest(cluster.services.uri("digits"))


class Submitted:
    """A run that is submitted as a job.

    Args:
        changes: settings of the recipe other than the small one's, see :func:`small_recipe`.
        seconds: sleep of the network in each microbatch.
    """

    def __init__(self, cluster: Cluster, data: Manifest, name: str, seconds: float = 0.1, **changes) -> None:
        self.cluster, self.name, self.journal = cluster, name, f"/tmp/{name}.jsonl"
        settings = {
            "name": name, "tracking__uri": cluster.services.tracking, "train__microbatch": 4, "validation__rows": 0,
            "sampling__every": 0, "checkpoint_every": EVERY, "resources__cpus_per_worker": 2,
            "resources__max_failures": 100, "data__block_steps": 5,
            "network": {"kind": "external", "factory": "tests.hosts.networks:Journalled",
                        "kwargs": {"journal": self.journal, "seconds": seconds}},
        }  # fmt: skip
        self.tree = small_recipe(data, Path("runs"), **{**settings, **changes})
        self.tree["storage"] = cluster.services.uri("runs")
        self.run = open_run(loading.parse_recipe(self.tree))
        recipe = cluster.head.machine.folder / "tmp" / f"{name}.yaml"
        recipe.write_text(loading.dump_yaml(self.tree))
        self.job = cluster.submit(name, "python", "jobs/train.py", f"/tmp/{name}.yaml")

    @property
    def folder(self) -> str:
        """Folder of the run in the object store."""
        return self.cluster.services.uri(f"runs/{self.name}")

    def reach(self, step: int, seconds: float = 180.0) -> None:
        """Wait for a checkpoint of ``step`` or a later one."""
        wait_for(lambda: self.newest() >= step, f"checkpoint of step {step} of {self.name}", seconds)

    def newest(self) -> int:
        """Return the step of the newest checkpoint, or 0."""
        return max(list_steps(self.folder), default=0)

    def check_rows(self) -> int:
        """Check the rows of all workers; see :func:`tests.hosts.journal.check_rows`."""
        machines = self.cluster.switch.machines.values()
        return check_rows(read_journals(machine.folder / self.journal.lstrip("/") for machine in machines), self.run)

    def losses(self) -> dict[int, float]:
        """Return the training loss of each step as the MLflow server has it; each step must be logged once."""
        client = tracking.connect_client(self.cluster.services.tracking)
        experiment = client.get_experiment_by_name(self.run.config.tracking.experiment).experiment_id
        (found,) = [run for run in client.search_runs([experiment]) if run.info.run_name == self.name]
        assert found.info.status == "FINISHED"
        history = client.get_metric_history(found.info.run_id, "train/loss")
        assert [metric.step for metric in history] == list(range(1, self.run.steps + 1))
        return {metric.step: metric.value for metric in history}

    def checkpoint(self) -> tuple[dict, dict]:
        """Return the tensors of the last checkpoint by file and name, and its state."""
        found = storage.fetch_newest_checkpoint(self.tree["storage"], self.name)
        files = sorted(found.rglob("*.safetensors"))
        tensors = {
            f"{path.relative_to(found)}/{key}": value for path in files for key, value in load_file(path).items()
        }
        state = json.loads((found / "checkpoint.json").read_text())["state"]
        storage.discard_copy(found)
        return tensors, state


def bare_losses(run: Run, tree: dict, folder: Path) -> dict[int, float]:
    """Return the training loss of each step in the bare loop, in this process."""
    alone = Recorded()
    bare = {
        **tree,
        "storage": str(folder),
        "network": {"kind": "external", "factory": "tests.cluster.networks:SmallUNet"},
    }
    del bare["tracking"]
    train_here(open_run(loading.parse_recipe(bare)), alone)
    return {step: loss for step, loss in alone.of("train/loss").items() if step <= run.steps}


def close(losses: dict[int, float]) -> object:
    """Return what equals losses up to the order of summation."""
    return pytest.approx(losses, rel=1e-5)
