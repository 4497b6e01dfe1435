"""Metrics reach MLflow once, in order, also when the server is away or the process died."""

import json
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from raysde import tracking
from raysde.tracking import Input, Tracker, client_for, open_run


@pytest.fixture
def uri(tmp_path) -> str:
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """A database without a place for artifacts keeps them in the working folder."""
    monkeypatch.chdir(tmp_path)


def steps(uri, run_id, key="loss"):
    return [metric.step for metric in client_for(uri).get_metric_history(run_id, key)]


def test_a_name_is_one_run(uri, tmp_path):
    client = client_for(uri)
    first = open_run(client, "e", "digits", {"a.b": 1, "long": "x" * 10_000}, (tmp_path / "artifacts").as_uri())
    assert open_run(client, "e", "digits", {"a.b": 1}, None) == first
    data = Input("s3://bucket/shards", "0123456789abcdef", 60)
    other = open_run(client, "e", "letters", {}, None, data)
    assert other != first
    (seen,) = client.get_run(other).inputs.dataset_inputs
    assert (seen.dataset.name, seen.dataset.digest, seen.dataset.source_type) == ("shards", data.fingerprint, "s3")
    assert client.get_run(first).data.params["a.b"] == "1"
    assert (tmp_path / "artifacts").exists()


def test_steps_are_never_logged_twice(uri, tmp_path):
    run_id = open_run(client_for(uri), "e", "r", {}, None)
    tracker = Tracker(uri, run_id, tmp_path / "spool")
    for step in (1, 2, 3):
        tracker.metrics(step, {"loss": float(step)})
    assert tracker.close()
    # a restart from step 1 computes steps 2 and 3 again
    tracker = Tracker(uri, run_id, tmp_path / "spool")
    for step in (2, 3, 4):
        tracker.metrics(step, {"loss": float(step), "new": 0.0})
    assert tracker.close()
    assert steps(uri, run_id) == [1, 2, 3, 4]
    assert steps(uri, run_id, "new") == [2, 3, 4]
    assert not (tmp_path / "spool").exists()


def test_what_a_dead_process_left_arrives(uri, tmp_path):
    """Lines on disk that were never sent are sent by the next process; a torn last line is dropped."""
    run_id = open_run(client_for(uri), "e", "r", {}, None)
    lines = [json.dumps({"step": step, "time": 0, "values": {"loss": 0.5}}) for step in (1, 2)]
    (tmp_path / "spool").write_text("\n".join(lines) + '\n{"step": 3, "ti')
    tracker = Tracker(uri, run_id, tmp_path / "spool")
    tracker.metrics(3, {"loss": 0.25})
    assert tracker.close()
    assert steps(uri, run_id) == [1, 2, 3]


def test_a_refused_entry_does_not_block_the_others(uri, tmp_path, capsys):
    run_id = open_run(client_for(uri), "e", "r", {}, None)
    tracker = Tracker(uri, run_id, tmp_path / "spool")
    tracker.metrics(1, {"no+such+name": 1.0})
    tracker.metrics(2, {"loss": 1.0})
    assert tracker.close(20.0)
    assert steps(uri, run_id) == [2]
    assert "refused" in capsys.readouterr().out


@pytest.mark.parametrize("bad", ["http://127.0.0.1:9", "./mlruns", "file:///tmp/mlruns"])
def test_stores_that_do_not_answer_are_named(bad):
    with pytest.raises(ValueError, match=bad.replace(".", r"\.")):
        client_for(bad)


def test_a_server_that_goes_away_gets_everything_later(tmp_path):
    """Logging never waits: with the server down, entries queue; when it is back, they arrive in order."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{tmp_path}/m.db", "--port", str(port),
               "--artifacts-destination", str(tmp_path / "artifacts"), "--workers", "1"]  # fmt: skip

    def start() -> subprocess.Popen:
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(120):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1.0)
            except OSError:
                time.sleep(0.5)
            else:
                return server
        raise TimeoutError("the MLflow server did not start")

    uri = f"http://127.0.0.1:{port}"
    server = start()
    try:
        run_id = open_run(client_for(uri), "e", "r", {}, None)
        tracker = Tracker(uri, run_id, tmp_path / "spool")
        tracker.metrics(1, {"loss": 1.0})
        assert tracker.drain(30.0)
        server.terminate()
        server.wait(30)
        begin = time.perf_counter()
        for step in range(2, 40):
            tracker.metrics(step, {"loss": 1.0})
        assert time.perf_counter() - begin < 1.0
        assert not tracker.drain(3.0)
        server = start()
        assert tracker.close(60.0)
        assert steps(uri, run_id) == list(range(1, 40))
    finally:
        server.terminate()
        server.wait(30)


def test_the_default_store_is_at_a_fixed_place(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking.default_uri().startswith("sqlite:////")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert tracking.default_uri() == "http://server:5000"
