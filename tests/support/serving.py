"""An MLflow server that samples from a registered model."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def serving(uri: str, model: str):
    """Yield the address of `mlflow models serve` on loopback, with loading of pickles disabled."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model, "--env-manager", "local",
               "--host", "127.0.0.1", "--port", str(port)]  # fmt: skip
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    binaries = str(Path(sys.executable).parent)
    environment["PATH"] = f"{binaries}:{environment['PATH']}"
    served = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=1.0)
            except OSError:
                assert served.poll() is None
                time.sleep(0.5)
            else:
                break
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(served.pid, signal.SIGTERM)
        served.wait(30)


def ask(address: str, body: dict) -> list[bytes]:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(address, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=120) as answer:
        return [base64.b64decode(row["image"]) for row in json.load(answer)["predictions"]]
