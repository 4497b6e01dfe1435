"""Connecting to Ray: the cluster that a job runs on, or a small one of our own on this machine."""

import contextlib
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray._private.services import canonicalize_bootstrap_address_or_die
from ray.exceptions import RayError

OWN = "RAYSDE_OWN_CLUSTER"
"""The variable by which processes of a cluster that was started here know that it is no other's."""


def connect(level: str | None = None) -> None:
    """Joins the cluster that RAY_ADDRESS or a surrounding job names; otherwise starts one here.

    A cluster started here counts one CPU more than the machine has, for data tasks, which are light: a worker can then
    train on all cores.

    Args:
        level: from which on the loggers of Ray's own processes are heard, such as ERROR; None for what Ray chooses.

    Raises:
        ValueError: if the cluster does not answer.
    """
    if ray.is_initialized():
        return
    quiet()
    heard = None if level is None else ray.LoggingConfig(log_level=level)
    if joins():
        address = os.environ["RAY_ADDRESS"]
        try:
            ray.init(
                address=address,
                log_to_driver=True,
                logging_level=logging.WARNING,
                logging_config=heard,
                runtime_env=of_processes(address),
            )
        except (ConnectionError, RuntimeError, RayError, ValueError) as error:
            raise ValueError(
                f"the Ray cluster {address!r} does not answer: {' '.join(str(error).split())[:160]}"
            ) from error
        return
    # nobody preempts this machine, and each of Ray's idle actors wakes a training core a hundred times a second
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    with told(free_port()):
        ray.init("local", num_cpus=(os.cpu_count() or 1) + 1, logging_level=logging.WARNING, logging_config=heard)


def joins() -> bool:
    """Whether :func:`connect` joins a cluster that others started; a surrounding job sets RAY_ADDRESS too.

    RAY_ADDRESS=local asks for one of our own, as it does of Ray.
    """
    return os.environ.get("RAY_ADDRESS") not in (None, "", "local", os.environ.get(OWN))


def of_processes(address: str) -> dict[str, Any] | None:
    """Return the environment in which processes of a cluster that others started know its address, see :func:`told`.

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
def told(port: int) -> Iterator[None]:
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


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as trying:
        trying.bind(("", 0))
        return int(trying.getsockname()[1])


def quiet() -> None:
    """Leaves Ray's warnings and errors, and hides its running commentary."""
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
