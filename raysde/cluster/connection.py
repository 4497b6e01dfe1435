"""Connecting to Ray: the cluster that a job runs on, or a small one of our own on this machine."""

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
from ray._private.worker import print_to_stdstream
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from raysde.io.progress import is_verbose, say

OWN = "RAYSDE_OWN_CLUSTER"
"""The variable by which processes of a cluster that was started here know that it is no other's."""
MARK = "[raysde] "
"""What begins a line that a process of the cluster prints for the person at the driver's terminal."""


def connect(level: str | None = None) -> None:
    """Joins the cluster that RAY_ADDRESS or a surrounding job names; otherwise starts one here.

    A cluster started here counts one CPU more than the machine has, for data tasks, which are light: a worker can then
    train on all cores.

    Args:
        level: from which on the loggers of Ray's own processes are heard, such as ERROR; None for what Ray chooses.

    Raises:
        ValueError: if the cluster does not answer.
        RuntimeError: if none can be started here.
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
        except Exception as error:  # Ray raises plain Exceptions too, such as of a node that times out
            raise ValueError(
                f"the Ray cluster {address!r} does not answer: {' '.join(str(error).split())[:160]}"
            ) from error
        heed_sigterm()
        show_worker_messages()
        return
    say("starting Ray")
    # nobody preempts this machine, and each of Ray's idle actors wakes a training core a hundred times a second
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    try:
        with use_port(find_free_port()):
            ray.init("local", num_cpus=(os.cpu_count() or 1) + 1, logging_level=logging.WARNING, logging_config=heard)
    except Exception as error:  # see above
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise RuntimeError(
            f"Ray does not start on this machine: {said}; its logs are in /tmp/ray/session_latest/logs, and "
            "raysde train --no-ray trains without it"
        ) from error
    heed_sigterm()
    show_worker_messages()


def heed_sigterm() -> None:
    """Let Python handle SIGTERM again: Ray's core prints a stack at it, and aborts the process three seconds later."""
    handler = signal.getsignal(signal.SIGTERM)
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _leave_ctrl_c(trainer: DataParallelTrainer, controller: Any) -> None:
    """In the place of Ray Train's own handler, which ends the process with status 0 and without a word."""


def tell_driver(sentence: str) -> None:
    """Tell the person at the driver's terminal something, from any process of the cluster."""
    # in its workers Ray Train 2.60 replaces print by one that writes a line to stdout, and logs it to stderr
    sys.stdout.write(f"{MARK}{sentence}\n")
    sys.stdout.flush()


def show_worker_messages() -> None:
    """Show what processes of the cluster say by :func:`tell_driver`, and what the autoscaler does, but no other output.

    Ray forwards all that workers print, with tracebacks of errors after which training goes on; RAYSDE_LOG=debug shows
    that. Ray 2.60 has no public way to choose among it.
    """
    if not is_verbose():
        printed_by_workers.remove_handler("ray_print_logs")
        printed_by_workers.add_handler("ray_print_logs", show_told_lines)


def show_told_lines(batch: dict[str, Any]) -> None:
    """Show the lines of a worker's output that are meant for a person."""
    if batch.get("pid") == "autoscaler":
        print_to_stdstream(batch, False)
        return
    for line in batch.get("lines", ()):
        if line.startswith(MARK):
            say(line.removeprefix(MARK))


def joins_existing_cluster() -> bool:
    """Whether :func:`connect` joins a cluster that others started; a surrounding job sets RAY_ADDRESS too.

    RAY_ADDRESS=local asks for one of our own, as it does of Ray.
    """
    return os.environ.get("RAY_ADDRESS") not in (None, "", "local", os.environ.get(OWN))


def worker_environment(address: str) -> dict[str, Any] | None:
    """Return the environment in which processes of a cluster that others started know its address, see
    :func:`use_port`.

    Args:
        address: a host and port, or ``auto`` for the only cluster of this machine.

    Raises:
        ConnectionError: if ``auto`` finds no cluster, or several.
    """
    if "://" in address:  # a Ray client, whose processes are started by its server
        return None
    job = json.loads(os.environ.get(RAY_JOB_CONFIG_JSON_ENV_VAR) or "{}").get("runtime_env") or {}
    if "RAY_ADDRESS" in job.get("env_vars", {}):  # Ray refuses a variable that is given twice
        return None
    return {"env_vars": {"RAY_ADDRESS": canonicalize_bootstrap_address_or_die(address)}}


@contextlib.contextmanager
def use_port(port: int) -> Iterator[None]:
    """Lets a cluster that starts here listen on ``port``, and its processes know their own address.

    Without it they look for all clusters of the machine, and where two are found (another user's, another run's) the
    actor with which Ray Train 2.60 takes back the CPUs of a run that was stopped dies, so that a sweep waits forever.
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
    """A port that nobody listens on now."""
    with socket.socket() as trying:
        trying.bind(("", 0))
        return int(trying.getsockname()[1])


def quiet_ray() -> None:
    """Leaves Ray's warnings and errors, and hides its running commentary, unless RAYSDE_LOG=debug asks for it."""
    if is_verbose():
        return
    os.environ.setdefault("RAY_DATA_LOG_LEVEL", "ERROR")
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it warns that its progress bars are off
    logging.getLogger("ray.tune").setLevel(logging.ERROR)  # it misses the records of trials that are not wanted
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    # Ray 2.60 names the logger of a worker's reports by its file
    reports = Path(ray.__file__).parent / "train" / "v2" / "_internal" / "execution" / "context.py"
    logging.getLogger(str(reports)).setLevel(logging.WARNING)
    # the local cluster's token is made and used without anybody's help
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)


def quiet_tune() -> None:
    """Leaves out Ray Tune's own records of trials, and the box of settings that it prints though told to be silent."""
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # at Ctrl-C it would come to an end as if nothing were left to do
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
