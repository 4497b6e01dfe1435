"""The cluster that `raysde train` starts for one run: without a dashboard, so that training starts sooner."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raysde.checkpoints import checkpoint
from tests.support.digits import write_digit_shards
from tests.support.paths import ROOT
from tests.support.training import small_recipe

JOB = """
import json, sys
from raysde.cluster.connection import has_state_api
from raysde.cluster.job import train_job
from raysde.config import loading
done = train_job(loading.parse_recipe(json.load(open(sys.argv[1]))))
print(json.dumps([str(done.checkpoint), has_state_api()]))
"""
MARK = "RAYSDE_TEST_MARK"


def processes(mark: str, title: str) -> list[int]:
    """Return the processes with a title, of the cluster whose environment has a mark."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
            named = (folder / "cmdline").read_bytes().startswith(title.encode())
        except OSError:  # it has ended, or is another user's
            continue
        if named and f"{MARK}={mark}".encode() in environment:
            found.append(int(folder.name))
    return found


@pytest.mark.timeout(300)
def test_a_run_on_its_own_cluster_outlives_the_controller(tmp_path):
    """Ray Train's cleaner of placement groups needs the dashboard. Without both, the workers' CPUs are free again."""
    manifest = write_digit_shards(tmp_path / "shards", rows=1797)
    tree = small_recipe(
        manifest, tmp_path / "runs", tracking__uri=f"sqlite:///{tmp_path / 'mlflow.db'}", train__length__steps=300,
        checkpoint_every=20, resources__workers=2, resources__cpus_per_worker=1,
    )  # fmt: skip
    (tmp_path / "recipe.json").write_text(json.dumps(tree))
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {MARK: str(tmp_path)}
    job = subprocess.Popen(
        [sys.executable, "-c", JOB, str(tmp_path / "recipe.json")], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        end = time.monotonic() + 150
        while checkpoint.find_newest_checkpoint(tmp_path / "runs" / "small") is None:
            assert job.poll() is None, job.communicate()[1]
            assert time.monotonic() < end
            time.sleep(0.2)
        assert not processes(str(tmp_path), "ray::PlacementGroupCleaner")
        (controller,) = processes(str(tmp_path), "ray::TrainController")
        os.kill(controller, signal.SIGKILL)
        printed, said = job.communicate(timeout=140)
    finally:
        job.kill()
    assert job.returncode == 0, said
    last, has_state_api = json.loads(printed.splitlines()[-1])
    assert Path(last).name == checkpoint.checkpoint_name(300)
    assert not has_state_api
    assert "the process that watches the workers (Ray Train's controller) died; starting again from step" in said
