"""Runs on Ray ended by a signal: the worker prints nothing, the command prints one sentence."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from functools import partial

import pytest

from benchmarks import scale_leaving
from raysde import tracking
from raysde.checkpoints import checkpoint
from raysde.commands.signals import INTERRUPTED, SIGTERMED
from raysde.config import loading
from tests.support.paths import ROOT
from tests.support.training import small_recipe

# as Ray trains: in a thread, while the main thread waits and ends at SIGTERM
WORKER = """
import os, signal, sys, threading, time, torch
from raysde.cluster.worker import exit_at_once_on_sigterm
network = torch.nn.Sequential(*[torch.nn.Linear(16, 16) for _ in range(40)])
def train():
    with exit_at_once_on_sigterm():
        while True:
            network(torch.randn(4, 16)).sum().backward()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
threading.Thread(target=train, daemon=True).start()
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
time.sleep(30)
"""


def test_a_worker_that_is_stopped_in_the_middle_of_a_step_says_nothing():
    """Without raysde's handler Python ends inside torch's backward, which aborts with a stack trace."""
    done = subprocess.run([sys.executable, "-c", WORKER], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, SIGTERMED)])
def test_a_run_on_ray_that_is_ended_keeps_the_step_it_is_at(digits, tmp_path, empty_store, number, status):
    """A checkpoint of the last logged step is written although none is due, so no step is repeated. By default, Ray
    dumps a stack at SIGTERM, and its trainer ends at Ctrl-C as if the run were complete."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    tree = small_recipe(
        digits, tmp_path / "runs", tracking__uri=uri, resources__cpus_per_worker=1, train__length__steps=100_000,
        checkpoint_every=100_000, text=None, validation__rows=0, sampling__every=0, data__stream="worker",
    )  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(loading.dump_yaml(tree))
    outside = ("RAY_ADDRESS", "RAYSDE_LOG")
    environment = {key: value for key, value in os.environ.items() if key not in outside}
    command = [sys.executable, "-m", "raysde.cli", "train", str(tmp_path / "recipe.yaml")]
    # tests in the background may have started with Ctrl-C ignored, which child processes inherit
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment, preexec_fn=heed
    ) as process:
        end = time.monotonic() + 240.0
        while logged_steps(tmp_path) < 3 and time.monotonic() < end and process.poll() is None:
            time.sleep(0.1)
        process.send_signal(number)
        out, err = process.communicate(timeout=120.0)
    lines = [line for line in err.splitlines() if line and not line.startswith("training ")]
    assert (process.returncode, out) == (status, ""), err
    ending = "ending after this step, with a checkpoint; interrupt again to end at once"
    assert lines[:-1] == ["starting Ray", "starting 1 worker", "first batch", ending]
    (kept,) = tmp_path.glob("runs/small/step_*")
    step = checkpoint.verify_checkpoint(kept).step
    assert (
        lines[-1] == f"raysde: run 'small' was interrupted; the same command goes on from its checkpoint at step {step}"
    )
    client = tracking.connect_client(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("raysde").experiment_id])
    assert run.info.status == "KILLED"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [metric.step for metric in history] == list(range(1, step + 1))


def logged_steps(tmp_path) -> int:
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db", timeout=60.0)) as rows:
        return rows.execute("SELECT max(step) FROM metrics").fetchone()[0] or 0


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_resize_and_a_drain_repeat_no_step(tmp_path):
    """A run without checkpoints of its own saves one before it grows, and one before a node goes, which is no failure:
    ``resources.max_failures`` is 0."""
    import ray

    ray.shutdown()
    assert scale_leaving.measure_changes(tmp_path) == {"resize": 0, "drain": 0}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_stopped_job_repeats_no_step(tmp_path):
    """Ray kills the job three seconds after SIGTERM."""
    assert scale_leaving.measure_job_stop(tmp_path) == {"job stop": 0}
