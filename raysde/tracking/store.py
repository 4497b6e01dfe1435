"""The MLflow store: its location, its connection, and its errors."""

import errno
import fcntl
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from raysde.io.filesystems import DATABASE, resolve_database

for name in ("mlflow", "alembic"):
    logging.getLogger(name).setLevel(logging.WARNING)
# it prints the traceback of every error that it raises
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)

SHORT = {
    mlflow.environment_variables.MLFLOW_HTTP_REQUEST_MAX_RETRIES: 2,
    mlflow.environment_variables.MLFLOW_HTTP_REQUEST_TIMEOUT: 10,
}
"""Retries, and seconds for an answer, of small requests."""
MAGIC = b"SQLite format 3\0"
"""First bytes of every SQLite database that is not empty."""


def default_uri() -> str:
    """Return MLFLOW_TRACKING_URI if it is set, otherwise a SQLite file at a fixed place in the home folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('~/raysde/mlflow.db').expanduser()}"


def store_uri(given: str | None) -> str:
    """Return the URI of the given store, or of the default one; the path of a SQLite file is absolute."""
    return resolve_database(given or default_uri())


def connect_client(uri: str) -> MlflowClient:
    """Return a client of a tracking store that answers.

    Raises:
        ValueError: if it does not answer, or is a plain folder, which MLflow no longer supports.
    """
    if uri.startswith("sqlite"):
        _check_file(uri)
    elif "://" not in uri or uri.startswith("file:"):
        raise ValueError(f"tracking.uri {uri!r} must be a server (http://...) or a database (sqlite:///...)")
    shorten_timeouts(uri)
    try:
        with _open_one_at_a_time(uri):
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            client.search_experiments(max_results=1)
    except ModuleNotFoundError as error:
        raise ValueError(f"tracking.uri {uri}: its database needs a driver that is not installed: {error}") from None
    except (MlflowException, SQLAlchemyError) as error:
        raise ValueError(
            f"the MLflow {store_kind(uri)} {uri} does not answer: {describe_error(error)}; "
            "check tracking.uri or --tracking-uri"
        ) from None
    return client


def store_kind(uri: str) -> str:
    """Return "server" or "database" for messages about a store."""
    return "server" if uri.startswith("http") else "database"


def describe_error(error: Exception) -> str:
    """Return the message of an MLflow or database error in one line, without its query."""
    said = " ".join(re.split(r"\n?\[SQL:|\n?\(Background on", str(error))[0].split())[:200]
    if "database is locked" in said:
        said = "another process holds the database locked: end that process, or use a server (raysde ui)"
    return said


def _check_file(uri: str) -> None:
    """Check the file of a SQLite store, because SQLAlchemy reports errors with a traceback after a minute and a half.

    Raises:
        ValueError: if it is no SQLite file, or cannot be opened.
    """
    match = DATABASE.fullmatch(uri)
    if match is None or match[2] in ("", ":memory:"):
        raise ValueError(f"tracking.uri {uri!r} stores nothing; name a file, such as sqlite:///mlflow.db")
    path = Path(match[2])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            with path.open("rb+") as file:
                head = file.read(len(MAGIC))
            if head and head != MAGIC:
                raise ValueError(f"tracking.uri {uri}: the file is no SQLite database; name another one")
        elif not os.access(path.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path.parent))
    except OSError as error:
        raise ValueError(f"tracking.uri {uri} cannot be opened: {error.strerror}: {error.filename}") from None


@contextmanager
def _open_one_at_a_time(uri: str) -> Iterator[None]:
    """Lock a SQLite file while it is opened, because two processes that create its tables at once would break it."""
    match = DATABASE.fullmatch(uri)
    if match is None:
        yield
        return
    with open(f"{match[2]}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def shorten_timeouts(uri: str) -> None:
    """Report an absent server in seconds instead of after MLflow's default seven retries."""
    if uri.startswith("http"):
        for variable, value in SHORT.items():
            if not variable.is_set():
                variable.set(value)


@contextmanager
def wait_for_transfer(size: int) -> Iterator[None]:
    """Wait long enough for the transfer of a file through the server, unless the user has set MLflow's time-out.

    A server that proxies its store answers after it has stored the whole file. With a short time-out the client would
    send the file again and again.

    Args:
        size: bytes of the largest file; the server has ten minutes, and one second more for each 10 MB.
    """
    variable = mlflow.environment_variables.MLFLOW_HTTP_REQUEST_TIMEOUT
    before = variable.get_raw()
    if before is not None and before != str(SHORT[variable]):
        yield
        return
    variable.set(600 + size // 10_000_000)
    try:
        yield
    finally:
        variable.unset() if before is None else variable.set(before)


@contextmanager
def report_server_errors(uri: str) -> Iterator[None]:
    """Convert an error of the MLflow server into one sentence.

    Raises:
        RuntimeError: naming the server.
    """
    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        raise RuntimeError(f"MLflow at {uri}: {describe_error(error)}") from error
