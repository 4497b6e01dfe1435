"""`ray job submit` against a local head with Ray's token authentication, as in the README."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raysde import tracking
from raysde.checkpoints import checkpoint
from tests.support.paths import ROOT

RAY = str(Path(sys.executable).with_name("ray"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run(*command: str, environment: dict, timeout: float = 240.0) -> subprocess.CompletedProcess:
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, cwd=ROOT)
    return subprocess.CompletedProcess(command, ended.returncode, ended.stdout + ended.stderr)


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """Start a head by hand, with its own ports and token, and yield its environment."""
    folder = tmp_path_factory.mktemp("head")
    dashboard = free_port()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment.update(RAY_AUTH_MODE="token", HOME=str(folder))
    # jobs find python and ray where this test found them
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    made = run(RAY, "get-auth-token", "--generate", environment=environment)
    assert made.returncode == 0, made.stdout
    # in the foreground, so that only its processes are ended; `ray stop` would end those of all clusters
    command = [
        RAY, "start", "--head", "--block", f"--port={free_port()}", "--num-cpus=3", f"--dashboard-port={dashboard}",
        f"--dashboard-agent-listen-port={free_port()}", "--disable-usage-stats",
    ]  # fmt: skip
    log = folder / "head.log"
    with log.open("wb") as output:
        started = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=output, stderr=output)
    wait_for_dashboard(dashboard, started, log)
    yield {**environment, "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"}
    started.kill()
    started.wait(60)


def wait_for_dashboard(port: int, head: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert head.poll() is None, log.read_text()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(log.read_text())


def submit(head: dict, *entrypoint: str) -> subprocess.CompletedProcess:
    return run(RAY, "job", "submit", "--working-dir", ".", "--", *entrypoint, environment=head)


def test_the_three_jobs(head, tmp_path):
    """The jobs ingest, train the digits recipe, and sample from the registered model, with the commands of a laptop."""
    done = submit(head, "python", "jobs/ingest.py", "sklearn:digits", str(tmp_path / "shards"))
    assert done.returncode == 0, done.stdout
    assert "1797 grey images of 8x8" in done.stdout
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    small = ["network.channels=8", "network.head_channels=8", "train.length.steps=6", "train.batch=16", "checkpoint_every=3",
             "validation.rows=0", "sampling.every=0"]  # fmt: skip
    places = [f"data.path={tmp_path / 'shards'}", f"storage={tmp_path / 'runs'}", f"tracking.uri={uri}"]
    done = submit(head, "python", "jobs/train.py", "digits", *places, *small)
    assert done.returncode == 0, done.stdout
    assert "registered models:/digits/1" in done.stdout
    assert done.stdout.splitlines().count("first batch") == 1
    assert checkpoint.find_newest_checkpoint(tmp_path / "runs" / "digits").name == checkpoint.checkpoint_name(6)
    client = tracking.connect_client(uri)
    assert client.get_model_version_by_alias("digits", "candidate").version in (1, "1")
    sample = ["models:/digits@candidate", "--tracking-uri", uri, "--prompt", "seven", "-n", "2", "--steps", "2"]
    done = submit(head, "python", "jobs/sample.py", *sample, "--out", str(tmp_path / "drawn"))
    assert done.returncode == 0, done.stdout
    assert len(list((tmp_path / "drawn").glob("image-*.png"))) == 2


def test_without_the_token_nothing_is_accepted(head):
    stranger = {key: value for key, value in head.items() if not key.startswith("RAY_AUTH")}
    stranger["HOME"] = "/nonexistent"
    refused = submit(stranger, "python", "-c", "print(1)")
    assert refused.returncode != 0
    assert re.search("auth", refused.stdout, flags=re.IGNORECASE)


def test_bad_recipes_fail_the_job_with_one_sentence(head):
    done = submit(head, "python", "jobs/train.py", "digits", "sde.beta_mx=1")
    assert done.returncode != 0
    assert "raysde: unknown key 'sde.beta_mx'" in done.stdout
    assert "Traceback" not in done.stdout


def test_ray_is_beside_python():
    assert shutil.which(RAY)
