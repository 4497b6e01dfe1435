"""The command `raysde ui`: MLflow's web UI on the tracking store, opened at training runs and the registry."""

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import webbrowser
from collections.abc import Iterator, Mapping
from typing import IO

from raysde.commands import add_tracking_option
from raysde.io.progress import is_verbose

VIEW = "workflowType=machine_learning"
"""URL parameter of MLflow 3's pages for training; its default pages for language models hide runs and the registry."""
HOST = "127.0.0.1"
STARTING = 120.0
"""Seconds that the server may take until its first answer."""
ENDING = 10.0
"""Seconds that the server may take to end after SIGTERM."""


def add_ui_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `raysde ui` to its parser."""
    command.description = "Serves the MLflow UI on the tracking store until Ctrl-C, and opens it in a browser."
    command.add_argument("--port", type=int, default=5000, help="port of the server (default %(default)s)")
    command.add_argument("--no-browser", action="store_true", help="print the links only")
    add_tracking_option(command)
    command.set_defaults(run=run_ui)


def run_ui(args: argparse.Namespace) -> None:
    """Run `raysde ui`: serve MLflow's pages on the store until it is stopped.

    Raises:
        ValueError: if the store does not answer, or the port number is invalid.
        RuntimeError: if another program uses the port, or the server fails.
    """
    from raysde.tracking import connect_client, default_uri, list_experiments, report_server_errors

    uri = args.tracking_uri or default_uri()
    client = connect_client(uri)
    with report_server_errors(uri):
        known = list_experiments(client)
    if uri.startswith("http"):
        show_links(uri.rstrip("/"), known, browse=not args.no_browser)
        return
    serve_store(uri, args.port, known, browse=not args.no_browser)


def serve_store(uri: str, port: int, experiments: Mapping[str, str], *, browse: bool) -> None:
    """Serve a store on a port of this machine and print the links, until the program is stopped.

    Raises:
        ValueError: if the port number is invalid.
        RuntimeError: if another program uses the port, or the server ends by itself.
    """
    check_port(port)
    with end_on_signal(), tempfile.TemporaryFile() as said, run_server(uri, port, said) as server:
        address = f"http://{HOST}:{port}"
        if wait_for_server(server, address):
            show_links(address, experiments, browse=browse)
        status = server.wait()
        said.seek(0)
        sys.stderr.write(said.read().decode(errors="replace"))
    raise RuntimeError(f"the MLflow UI ended by itself, with status {status}; its output is above")


def list_links(address: str, experiments: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return (title, URL) pairs of a server: the runs of each experiment, and the registered models.

    Args:
        experiments: ids by name.
    """
    runs = [
        (f"runs of {name}", f"{address}/#/experiments/{number}/runs?{VIEW}") for name, number in experiments.items()
    ]
    return [*(runs or [("runs", f"{address}/#/experiments?{VIEW}")]), ("models", f"{address}/#/models?{VIEW}")]


def show_links(address: str, experiments: Mapping[str, str], *, browse: bool) -> None:
    """Print the links, and open the first one in a browser if there is a display."""
    found = list_links(address, experiments)
    width = max(len(what) for what, _ in found)
    for what, where in found:
        print(f"{what.ljust(width)}  {where}", flush=True)
    screen = sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    if browse and screen and sys.stdout.isatty():
        webbrowser.open(found[0][1])


def check_port(port: int) -> None:
    """Check that the server can listen on a port.

    Raises:
        ValueError: if the port number is invalid.
        RuntimeError: if another program uses the port, or it needs root's rights.
    """
    if not 0 < port < 65536:
        raise ValueError(f"--port {port}: must be from 1 to 65535")
    with socket.socket() as trying:
        trying.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trying.bind((HOST, port))
        except PermissionError:
            raise RuntimeError(f"--port {port}: only root may listen there; give a port above 1023") from None
        except OSError:
            raise RuntimeError(f"--port {port}: another program listens there; give another port") from None


@contextlib.contextmanager
def run_server(uri: str, port: int, said: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Run MLflow's server on a store; end it and all processes that it started when the context ends.

    Args:
        port: TCP port on this machine.
        said: file for the server's output, unless RAYSDE_LOG=debug sends it to the terminal.
    """
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        uri,
        "--host",
        HOST,
        "--port",
        str(port),
    ]
    command += ["--workers", "1", "--uvicorn-opts", "--log-level warning"]
    # MLflow's background jobs are for language models, and would start more processes
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    out = sys.stderr if is_verbose() else said
    server = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
    try:
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(ENDING)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@contextlib.contextmanager
def end_on_signal() -> Iterator[None]:
    """End the program with status 0 on SIGTERM or Ctrl-C inside this context."""

    def leave(*_: object) -> None:
        raise SystemExit(0)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait_for_server(server: subprocess.Popen[bytes], address: str) -> bool:
    """Wait until a server answers; return False if it ends before.

    Raises:
        RuntimeError: if it does not answer within :data:`STARTING` seconds.
    """
    until = time.monotonic() + STARTING
    while time.monotonic() < until:
        if server.poll() is not None:
            return False
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=5.0):
            return True
        time.sleep(0.2)
    raise RuntimeError(
        f"the MLflow UI does not answer at {address} after {STARTING:.0f} s; see its output with RAYSDE_LOG=debug"
    )
