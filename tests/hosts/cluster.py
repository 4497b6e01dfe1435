"""A Ray cluster on machines of their own, with an object store and an MLflow server on another one."""

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from tests.hosts.machines import Machine, Switch, child_of, wait_for
from tests.hosts.object_store import COUNTED
from tests.support.paths import ROOT

RAY = str(Path(sys.executable).with_name("ray"))
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}
CPUS = 3
"""CPUs of a host: two for a training worker and one for data tasks, so that no host has two workers."""
SOON = {
    # a host that does not answer is dead after 5 to 10 s instead of half a minute
    "RAY_health_check_initial_delay_ms": "3000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    # a worker group that ended is noticed at once
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # a drained host leaves soon
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "20",
}
SPARING = {
    # two cores serve all hosts
    "RAY_prestart_worker_first_driver": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "OMP_WAIT_POLICY": "PASSIVE",
    "OMP_NUM_THREADS": "1",
}
OVER = ("SUCCEEDED", "FAILED", "STOPPED")


class Services:
    """A machine with an object store and an MLflow server.

    Args:
        late: seconds before the object store answers a request.
    """

    def __init__(self, machine: Machine, late: float) -> None:
        self.machine, self.store = machine, f"{machine.address}:9000"
        self.tracking = f"http://{machine.address}:5000"
        environment = {**KEYS, **SPARING, "PATH": os.environ["PATH"]}
        server = [sys.executable, "-m", "tests.hosts.object_store", machine.address, "9000", str(late)]
        machine.start(*server, environment=environment, log="s3.log")
        server = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", "sqlite:////tmp/mlflow.db"]
        server += ["--artifacts-destination", "/tmp/artifacts", "--host", machine.address, "--port", "5000"]
        server += ["--workers", "1", "--allowed-hosts", "*"]
        machine.start(*server, environment=environment, log="mlflow.log")

    def wait(self) -> None:
        """Wait until both servers answer, and make the bucket."""
        wait_for(lambda: answer(f"http://{self.store}{COUNTED}"), "object store", 60)
        made = pafs.S3FileSystem(
            endpoint_override=self.store, scheme="http", allow_bucket_creation=True,
            access_key=KEYS["AWS_ACCESS_KEY_ID"], secret_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        )  # fmt: skip
        made.create_dir("bucket")
        wait_for(lambda: answer(f"{self.tracking}/health"), "MLflow server", 120)

    def uri(self, path: str) -> str:
        """Return the URI of a folder in the object store."""
        return f"s3://bucket/{path}?endpoint_override={self.store}&scheme=http&region=us-east-1"

    def counted(self) -> dict[str, int]:
        """Return the number of requests that the object store received, by method."""
        return json.loads(answer(f"http://{self.store}{COUNTED}"))


class Host:
    """A machine that runs Ray.

    Args:
        head: address of the cluster's head; None if this is the head.
    """

    def __init__(self, machine: Machine, environment: dict[str, str], head: str | None) -> None:
        self.machine, self.environment, self.head = machine, environment, head
        self.start()

    def start(self) -> None:
        """Start Ray, which joins the cluster; again after it ended."""
        command = [RAY, "start", "--block", f"--node-ip-address={self.machine.address}", f"--num-cpus={CPUS}"]
        command += ["--object-store-memory=150000000", "--disable-usage-stats"]
        if self.head is None:
            command += ["--head", "--port=6379", f"--dashboard-host={self.machine.address}"]
        else:
            command += [f"--address={self.head}:6379"]
        self.process = self.machine.start(*command, environment=self.environment, log="ray.log")

    @property
    def runs(self) -> bool:
        """True while Ray runs here."""
        return self.process.poll() is None

    def leave(self) -> None:
        """Send Ray SIGTERM, as a cloud or Kubernetes does before it takes a machine away; Ray drains the node."""
        os.kill(child_of(self.process), signal.SIGTERM)


class Cluster:
    """A head and hosts that come and go.

    Args:
        hosts: number of hosts at the beginning, with the head.
        late: seconds before the object store answers a request.
    """

    def __init__(self, switch: Switch, hosts: int, late: float = 0.02) -> None:
        self.switch, self.hosts = switch, []
        self.services = Services(switch.add("services"), late)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.token = secrets.token_hex(16)
        self.environment = {
            **SOON,
            **SPARING,
            **KEYS,
            "PATH": path,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
        }
        self.head = self.add()
        self.dashboard = f"http://{self.head.machine.address}:8265"
        wait_for(lambda: self.ask("/api/version"), "head", 120)
        for _ in range(hosts - 1):
            self.add()
        self.services.wait()
        self.wait_for_hosts(hosts)

    def add(self) -> Host:
        """Add a host; it joins in a few seconds, see :meth:`wait_for_hosts`."""
        head = self.hosts[0].machine.address if self.hosts else None
        self.hosts.append(Host(self.switch.add(f"host{len(self.switch.machines)}"), self.environment, head))
        return self.hosts[-1]

    def kill(self, host: Host) -> None:
        """Cut a host off from its power."""
        host.machine.power_off()
        self.hosts.remove(host)

    def drain(self, host: Host) -> None:
        """Take a host away with notice: Ray drains the node, and the machine goes off when Ray has ended."""
        host.leave()
        wait_for(lambda: not host.runs, f"end of Ray on {host.machine.name}", 90)
        self.kill(host)

    def cut(self, host: Host, seconds: float) -> None:
        """Cut a host's link, and heal it; if the cluster has given the host up meanwhile, start Ray there again."""
        host.machine.cut()
        time.sleep(seconds)
        host.machine.heal()
        address = host.machine.address
        wait_for(lambda: not host.runs or address in self.alive(), f"end of Ray on {host.machine.name}", 90)
        time.sleep(5.0)  # a raylet that was given up learns it from the head's next answer
        if not host.runs:
            wait_for(lambda: "raylet" not in host.machine.check("ps", "axo", "comm"), "end of its raylet", 30)
            host.start()
            wait_for(lambda: address in self.alive(), f"return of {host.machine.name}", 90)

    def ask(self, path: str) -> Any:
        """Return the answer of the head's HTTP interface; None if it does not answer."""
        return json.loads(answer(self.dashboard + path, {"Authorization": f"Bearer {self.token}"}) or "null")

    def alive(self) -> dict[str, str]:
        """Return the identifiers of the living nodes by address."""
        found = self.ask("/api/v0/nodes") or {"data": {"result": {"result": []}}}
        nodes = found["data"]["result"]["result"]
        return {node["node_ip"]: node["node_id"] for node in nodes if node["state"] == "ALIVE"}

    def wait_for_hosts(self, count: int, seconds: float = 120.0) -> None:
        """Wait until the cluster has ``count`` living nodes."""
        wait_for(lambda: len(self.alive()) == count, f"cluster of {count} hosts", seconds)

    def submit(self, name: str, *entrypoint: str) -> str:
        """Submit a job with this project's folder, and return its identifier."""
        command = [RAY, "job", "submit", "--address", self.dashboard, "--no-wait", "--submission-id", name]
        command += ["--working-dir", ".", "--", *entrypoint]
        done = subprocess.run(
            command, env={**os.environ, **self.environment}, capture_output=True, text=True, cwd=ROOT, timeout=120
        )
        if done.returncode:
            raise RuntimeError(f"job {name} was refused: {done.stdout}{done.stderr}")
        return name

    def status(self, job: str) -> str:
        """Return the status of a job, such as RUNNING."""
        found = self.ask(f"/api/jobs/{job}")
        return "" if found is None else str(found["status"])

    def output(self, job: str) -> str:
        """Return the lines that a job printed, without Ray's colours."""
        found = self.ask(f"/api/jobs/{job}/logs")
        return "" if found is None else re.sub(r"\x1b\[[0-9;]*m", "", found["logs"])

    def wait_for_end(self, job: str, seconds: float) -> None:
        """Wait for a job to succeed.

        Raises:
            RuntimeError: with its output, if it fails.
            TimeoutError: with its output, if it takes too long.
        """
        try:
            wait_for(lambda: self.status(job) in OVER, f"end of job {job}", seconds)
        except TimeoutError as error:
            raise TimeoutError(f"{error}:\n{self.output(job)}") from error
        if self.status(job) != "SUCCEEDED":
            raise RuntimeError(f"job {job} {self.status(job)}:\n{self.output(job)}")


def answer(url: str, headers: dict[str, str] | None = None) -> bytes:
    """Return the body of an HTTP answer; empty if there is none within 5 s."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}), timeout=5.0) as found:
            return found.read() or b" "
    except OSError:
        return b""
