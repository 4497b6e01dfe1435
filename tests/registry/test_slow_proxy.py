"""A model reaches an MLflow server through a proxy that answers late."""

import http.client
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import mlflow
import pytest
from mlflow.exceptions import MlflowException

from raysde import registry, tracking
from raysde.registry import publishing
from raysde.tracking import store
from tests.support.checkpoints import write_model
from tests.support.ranks import free_port

TIMEOUT = mlflow.environment_variables.MLFLOW_HTTP_REQUEST_TIMEOUT
ANSWER, SHORT = 3.0, 1
"""Seconds after which the proxy answers a file, and seconds that the client waits for small requests."""


class Proxy(ThreadingHTTPServer):
    """A proxy that passes requests on, and answers a file only some seconds after the server."""

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), Relay)
        self.port, self.files = port, Counter()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, address) -> None:
        """Say nothing of clients that have gone."""


class Relay(BaseHTTPRequestHandler):
    server: Proxy

    def pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        is_file = "mlflow-artifacts/artifacts" in self.path and self.command in ("PUT", "GET") and "?" not in self.path
        if is_file:
            self.server.files[self.command, self.path.rpartition("/")[2]] += 1
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        headers = {key: value for key, value in self.headers.items() if key.lower() not in ("host", "connection")}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        if is_file:
            time.sleep(ANSWER)
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def proxy(tmp_path, empty_store, monkeypatch):
    """Yield a slow proxy before a server, for a client with short time-outs."""
    for name in (TIMEOUT.name, mlflow.environment_variables.MLFLOW_HTTP_REQUEST_MAX_RETRIES.name):
        monkeypatch.setenv(name, "1")  # monkeypatch restores it afterwards
        monkeypatch.delenv(name)
    monkeypatch.setitem(store.SHORT, TIMEOUT, SHORT)
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db",
               "--port", str(port), "--workers", "1", "--artifacts-destination", str(tmp_path / "artifacts")]  # fmt: skip
    with (tmp_path / "server.log").open("w") as log:
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    end = time.monotonic() + 120.0
    while time.monotonic() < end:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                break
        except OSError:
            time.sleep(0.2)
    proxy = Proxy(port)
    yield proxy
    proxy.shutdown()
    os.killpg(process.pid, 15)
    process.wait(30)


@pytest.mark.slow
def test_a_model_is_sent_once_through_a_proxy_that_answers_late(proxy, tmp_path, monkeypatch):
    """The file's time-out is that of a transfer, and afterwards small requests are short again. With the short time-out
    the client sends the first file, in any order, three times and fails."""
    folder = tmp_path / "step_1"
    write_model(folder, 1, text=None)
    client = tracking.connect_client(proxy.uri)
    assert TIMEOUT.get() == SHORT
    run_id = client.create_run(client.create_experiment("slow")).info.run_id
    version = registry.publish_checkpoint(client, folder, run_id=run_id, name="slow", alias="champion")
    assert version == "1"
    assert proxy.files["PUT", "ema.safetensors"] == 1
    assert max(proxy.files.values()) == 1
    assert TIMEOUT.get() == SHORT
    found = registry.resolve_source("models:/slow@champion", proxy.uri)
    assert proxy.files["GET", "ema.safetensors"] == 1
    assert (found / "ema.safetensors").read_bytes() == (folder / "ema.safetensors").read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(publishing, "wait_for_transfer", lambda size: tracking.report_server_errors(proxy.uri))
        with pytest.raises((MlflowException, RuntimeError)):
            registry.publish_checkpoint(client, folder, run_id=run_id, name="again", alias=None)
    assert max(count for (method, _), count in proxy.files.items() if method == "PUT") == 4  # of the first file
