"""`raysde ui`: its links, an occupied port, and an end that leaves no process behind."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from raysde.cli import main
from raysde.commands.ui import VIEW, list_links
from raysde.tracking import connect_client, open_mlflow_run
from tests.support.paths import ROOT


def free_port() -> int:
    with socket.socket() as trying:
        trying.bind(("127.0.0.1", 0))
        return trying.getsockname()[1]


def below(process: int) -> set[int]:
    """Return the ids of a process's descendants, as Linux lists them."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # the process ended meanwhile
        if words[0] != "Z":
            parents[int(stat.parent.name)] = int(words[1])
    found, waiting = set(), {process}
    while waiting:
        waiting = {child for child, parent in parents.items() if parent in waiting}
        found |= waiting
    return found


@pytest.fixture
def store(empty_store, tmp_path) -> str:
    """Return the URI of a store with one run."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    open_mlflow_run(connect_client(uri), "pictures", "one", {}, None, None)
    return uri


def test_links_lead_to_training_runs_and_to_the_registry():
    """The links select MLflow's view of training by a URL parameter."""
    found = dict(list_links("http://h:1", {"pictures": "7"}))
    assert found == {
        "runs of pictures": "http://h:1/#/experiments/7/runs?workflowType=machine_learning",
        "models": "http://h:1/#/models?workflowType=machine_learning",
    }
    assert list_links("http://h:1", {})[0] == ("runs", "http://h:1/#/experiments?workflowType=machine_learning")


def test_of_a_server_there_is_nothing_to_start(monkeypatch, capsys, store):
    """The server's own links are printed; a browser opens the first only with a display and a terminal."""
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a server was started"))
    client = connect_client(store)
    monkeypatch.setattr("raysde.tracking.connect_client", lambda uri: client)
    words = ["ui", "--tracking-uri", "https://mlflow.example.org/"]
    assert main(words) == 0
    first = capsys.readouterr().out.splitlines()[0].split()[-1]
    assert first == f"https://mlflow.example.org/#/experiments/1/runs?{VIEW}"
    monkeypatch.setenv("DISPLAY", ":0")
    assert main(words) == 0
    assert opened == []  # captured output is not a terminal
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(words) == 0
    assert main([*words, "--no-browser"]) == 0
    assert opened == [first]


def test_a_server_that_ends_by_itself_is_an_error_with_its_own_words(monkeypatch, capfd, store, tmp_path):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho its own words\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(program))
    assert main(["ui", "--tracking-uri", store, "--port", str(free_port())]) == 1
    said = capfd.readouterr().err.splitlines()
    assert said[0] == "its own words"
    assert "with status 3" in said[1]


def test_a_port_that_is_taken_is_said(capsys, store):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert main(["ui", "--tracking-uri", store, "--port", str(port)]) == 1
    assert capsys.readouterr().err == f"raysde: --port {port}: another program listens there; give another port\n"
    assert main(["ui", "--tracking-uri", store, "--port", "70000"]) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_on_a_signal_it_ends_with_all_that_it_started(store, number):
    port = free_port()
    words = [sys.executable, "-m", "raysde.cli", "ui", "--tracking-uri", store, "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        said = [process.stdout.readline() for _ in range(2)]  # printed once the server answers
        addresses = [line.split()[-1] for line in said]
        assert [line.split()[0] for line in said] == ["runs", "models"]
        assert urllib.request.urlopen(addresses[0], timeout=30).status == 200
        started = below(process.pid)
        assert started
    finally:
        process.send_signal(number)
    assert process.wait(60) == 0
    assert not any(Path(f"/proc/{child}").exists() for child in started)
    with socket.socket() as trying:
        assert trying.connect_ex(("127.0.0.1", port)) != 0
