"""Runs on Ray ended by a signal: the worker prints nothing, the command prints one sentence."""

import os
import re
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from raysde import tracking
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
def test_a_run_on_ray_that_is_ended_says_where_it_goes_on(digits, tmp_path, empty_store, number, status):
    """By default, Ray dumps a stack at SIGTERM, and its trainer ends at Ctrl-C as if the run were complete."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    tree = small_recipe(
        digits, tmp_path / "runs", tracking__uri=uri, resources__cpus_per_worker=1, train__length__steps=100_000,
        checkpoint_every=1, text=None, validation__rows=0, sampling__every=0, data__stream="worker",
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
        while not list(tmp_path.glob("runs/small/step_*")) and time.monotonic() < end and process.poll() is None:
            time.sleep(0.1)
        process.send_signal(number)
        out, err = process.communicate(timeout=120.0)
    lines = [line for line in err.splitlines() if not line.startswith("training ")]
    assert (process.returncode, out) == (status, ""), err
    assert lines[:-1] == ["starting Ray", "starting 1 worker", "first batch"]
    said = r"raysde: run 'small' was interrupted; the same command goes on from its checkpoint at step \d+"
    assert re.fullmatch(said, lines[-1])
    client = tracking.connect_client(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("raysde").experiment_id])
    assert run.info.status == "KILLED"
