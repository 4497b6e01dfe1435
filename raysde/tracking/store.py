"""The MLflow store: where it is, whether it answers, and what it says when it does not."""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

for name in ("mlflow", "alembic"):
    logging.getLogger(name).setLevel(logging.WARNING)


def default_uri() -> str:
    """MLFLOW_TRACKING_URI if it is set, otherwise a SQLite file at a fixed place in the home folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('~/raysde/mlflow.db').expanduser()}"


def client_for(uri: str) -> MlflowClient:
    """A client of a tracking store that answers.

    Raises:
        ValueError: if it does not answer, or is a plain folder, which MLflow no longer supports.
    """
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    elif "://" not in uri or uri.startswith("file:"):
        raise ValueError(f"tracking.uri {uri!r} must be a server (http://...) or a database (sqlite:///...)")
    short_timeouts(uri)
    try:
        with _alone(uri):
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            client.search_experiments(max_results=1)
    except MlflowException as error:
        raise ValueError(f"the MLflow server {uri} does not answer: {' '.join(str(error).split())[:160]}") from None
    return client


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """One process after the other opens a SQLite file: the first makes its tables, which two at once would break."""
    if not uri.startswith("sqlite:///"):
        yield
        return
    with open(uri.removeprefix("sqlite:///") + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def short_timeouts(uri: str) -> None:
    """A server that is away is reported in seconds rather than after MLflow's default seven retries."""
    if uri.startswith("http"):
        for variable in (
            mlflow.environment_variables.MLFLOW_HTTP_REQUEST_MAX_RETRIES,
            mlflow.environment_variables.MLFLOW_HTTP_REQUEST_TIMEOUT,
        ):
            if not variable.is_set():
                variable.set(2 if "RETRIES" in variable.name else 10)


@contextmanager
def answering(uri: str) -> Iterator[None]:
    """Turns an error of the MLflow server into one sentence.

    Raises:
        RuntimeError: naming the server.
    """
    try:
        yield
    except MlflowException as error:
        raise RuntimeError(f"MLflow at {uri}: {' '.join(str(error).split())[:200]}") from error
