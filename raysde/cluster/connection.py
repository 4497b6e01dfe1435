"""Connect to Ray: join the cluster that a job runs on, or start a local one."""

import contextlib
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray._private.ray_logging import global_worker_stdstream_dispatcher as printed_by_workers
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray._private.services import canonicalize_bootstrap_address_or_die
from ray._private.worker import get_dashboard_url, print_to_stdstream
from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import get_or_create_autoscaling_coordinator
from ray.data._internal.stats import get_or_create_stats_actor
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from raysde.io.progress import is_verbose, say

OWN = "RAYSDE_OWN_CLUSTER"
"""Environment variable that tells processes of a cluster started by raysde that the cluster is raysde's own."""
MARK = "[raysde] "
"""Prefix of lines that a process of the cluster prints for the driver's terminal."""


def connect(level: str | None = None, *, bare: bool = False) -> None:
    """Join the cluster that RAY_ADDRESS or a surrounding job names; otherwise start a local one.

    A local cluster counts one CPU more than the machine has. The extra CPU is for data tasks, which are light, so a
    worker can train on all cores.

    Args:
        level: lowest log level shown of Ray's own processes, such as ERROR; None keeps Ray's default.
        bare: start a local cluster sooner, for one run of Ray Train: without the dashboard, and without processes
            that wait for tasks, which the workers of Ray Train cannot use. A sweep needs the dashboard, which tells
            Ray Train whether a trial lives.

    Raises:
        ValueError: if the cluster does not answer.
        RuntimeError: if no local cluster can be started.
    """
    if ray.is_initialized():
        return
    quiet_ray()
    DataParallelTrainer._register_sigint_handler = _leave_ctrl_c  # type: ignore[assignment, method-assign]
    heard = None if level is None or is_verbose() else ray.LoggingConfig(log_level=level)
    if joins_existing_cluster():
        address = os.environ["RAY_ADDRESS"]
        say(f"joining the Ray cluster at {address}")
        try:
            ray.init(
                address=address,
                log_to_driver=True,
                logging_level=logging.WARNING,
                logging_config=heard,
                runtime_env=worker_environment(address),
            )
        except Exception as error:  # Ray raises plain Exceptions too, for example when a node times out
            raise ValueError(
                f"the Ray cluster {address!r} does not answer: {' '.join(str(error).split())[:160]}; start it, or "
                "change RAY_ADDRESS"
            ) from error
        heed_sigterm()
        show_worker_messages()
        return
    say("starting Ray")
    # no machine is preempted here, and each idle actor of Ray wakes a training core a hundred times a second
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    if bare:
        os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    try:
        with use_port(find_free_port()):
            ray.init(
                "local",
                num_cpus=(os.cpu_count() or 1) + 1,
                include_dashboard=not bare,
                logging_level=logging.WARNING,
                logging_config=heard,
            )
    except Exception as error:  # see above
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise RuntimeError(
            f"Ray does not start on this machine: {said}; its logs are in /tmp/ray/session_latest/logs, and "
            "raysde train --no-ray trains without it"
        ) from error
    heed_sigterm()
    show_worker_messages()
    if bare:  # actors that Ray Train and Ray Data would start one after another, and wait for
        get_or_create_autoscaling_coordinator()
        get_or_create_stats_actor()


def heed_sigterm() -> None:
    """Give SIGTERM back to Python: Ray's core prints a stack on it and aborts the process three seconds later."""
    handler = signal.getsignal(signal.SIGTERM)
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _leave_ctrl_c(trainer: DataParallelTrainer, controller: Any) -> None:
    """Replace Ray Train's SIGINT handler, which ends the process with status 0 and no message."""


def tell_driver(sentence: str) -> None:
    """Print a sentence at the driver's terminal, from any process of the cluster."""
    # in workers, Ray Train 2.60 replaces print by a function that writes to stdout and also logs to stderr
    sys.stdout.write(f"{MARK}{sentence}\n")
    sys.stdout.flush()


def show_worker_messages() -> None:
    """Show only lines of :func:`tell_driver` and the autoscaler's messages from processes of the cluster.

    By default Ray forwards everything that workers print, with tracebacks of errors that training recovers from.
    RAYSDE_LOG=debug keeps that. Ray 2.60 has no public way to filter it.
    """
    if not is_verbose():
        printed_by_workers.remove_handler("ray_print_logs")
        printed_by_workers.add_handler("ray_print_logs", show_marked_lines)


def show_marked_lines(batch: dict[str, Any]) -> None:
    """Print the lines of a worker's output that begin with :data:`MARK`."""
    if batch.get("pid") == "autoscaler":
        print_to_stdstream(batch, False)
        return
    for line in batch.get("lines", ()):
        if line.startswith(MARK):
            say(line.removeprefix(MARK))


def has_state_api() -> bool:
    """Return True if the cluster has a dashboard, which answers questions about the state of its actors."""
    return bool(get_dashboard_url())


def joins_existing_cluster() -> bool:
    """Return True if :func:`connect` joins an existing cluster; a surrounding job sets RAY_ADDRESS too.

    As in Ray, RAY_ADDRESS=local requests a new local cluster.
    """
    return os.environ.get("RAY_ADDRESS") not in (None, "", "local", os.environ.get(OWN))


def worker_environment(address: str) -> dict[str, Any] | None:
    """Return the runtime environment that tells processes of an existing cluster its address, see :func:`use_port`.

    Args:
        address: host and port, or ``auto`` for the only cluster of this machine.

    Raises:
        ConnectionError: if ``auto`` finds no cluster, or several.
    """
    if "://" in address:  # a Ray client: its server starts the processes
        return None
    job = json.loads(os.environ.get(RAY_JOB_CONFIG_JSON_ENV_VAR) or "{}").get("runtime_env") or {}
    if "RAY_ADDRESS" in job.get("env_vars", {}):  # Ray refuses a variable that is set twice
        return None
    return {"env_vars": {"RAY_ADDRESS": canonicalize_bootstrap_address_or_die(address)}}


@contextlib.contextmanager
def use_port(port: int) -> Iterator[None]:
    """Let a cluster that starts inside this context listen on ``port``, and tell its processes their address.

    Without the address, processes look for all clusters of the machine. If they find two (of another user or run), the
    actor that frees the CPUs of a stopped run dies in Ray Train 2.60, and a sweep waits forever.
    """
    address = f"{ray.util.get_node_ip_address()}:{port}"
    ours = {"RAY_GCS_SERVER_PORT": str(port), "RAY_ADDRESS": address, OWN: address}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def find_free_port() -> int:
    """Return a TCP port that no process listens on now."""
    with socket.socket() as trying:
        trying.bind(("", 0))
        return int(trying.getsockname()[1])


def quiet_ray() -> None:
    """Hide Ray's informational output, unless RAYSDE_LOG=debug; its warnings and errors stay."""
    if is_verbose():
        return
    os.environ.setdefault("RAY_DATA_LOG_LEVEL", "ERROR")
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # warns that progress bars are off
    logging.getLogger("ray.tune").setLevel(logging.ERROR)  # warns that the disabled records of trials are missing
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    # Ray 2.60 names the logger of a worker's reports by its file
    reports = Path(ray.__file__).parent / "train" / "v2" / "_internal" / "execution" / "context.py"
    logging.getLogger(str(reports)).setLevel(logging.WARNING)
    # the local cluster's token is made and used automatically
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)


def quiet_tune() -> None:
    """Disable Ray Tune's trial loggers and the table of settings that it prints even with ``verbose=0``."""
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # on Ctrl-C, Ray Tune's handler would end the sweep as if it were complete
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
