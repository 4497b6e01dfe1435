"""Metrics reach MLflow once and in order, also if the server was away or the process died."""

import contextlib
import importlib.util
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import pytest
import sqlalchemy
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.validation import _validate_batch_log_limits
from PIL import Image

from raysde import tracking
from raysde.config import loading
from raysde.runs.local import train_here
from raysde.runs.run import open_run as run_of
from raysde.tracking import (
    Input,
    Tracker,
    close_run,
    connect_client,
    deliver_leftovers,
    fail_run,
    finish_run,
    has_run,
    is_refused,
    open_mlflow_run,
)
from raysde.tracking.outbox import Outbox
from raysde.tracking.store import shorten_timeouts
from tests.support.paths import ROOT
from tests.support.training import Recorded


@pytest.fixture
def uri(tmp_path, empty_store) -> str:
    return f"sqlite:///{shutil.copy(empty_store, tmp_path)}"


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Change to a folder of the test's own, because a database without an artifact location uses the working folder."""
    monkeypatch.chdir(tmp_path)


def steps(uri, run_id, key="loss"):
    return [metric.step for metric in connect_client(uri).get_metric_history(run_id, key)]


def test_a_name_is_one_run(uri, tmp_path):
    client = connect_client(uri)
    first = open_mlflow_run(client, "e", "digits", {"a.b": 1, "long": "x" * 10_000}, (tmp_path / "artifacts").as_uri())
    assert open_mlflow_run(client, "e", "digits", {"a.b": 1}, None) == first
    data = Input("s3://bucket/shards", "0123456789abcdef", 60)
    other = open_mlflow_run(client, "e", "letters", {}, None, data)
    assert other != first
    (seen,) = client.get_run(other).inputs.dataset_inputs
    assert (seen.dataset.name, seen.dataset.digest, seen.dataset.source_type) == ("shards", data.fingerprint, "s3")
    assert client.get_run(first).data.params["a.b"] == "1"
    assert (tmp_path / "artifacts").exists()


@pytest.fixture
def strict(monkeypatch) -> list[int]:
    """Apply a server's limits on batches, which a database does not check, and return the batches' sizes."""
    sizes, log = [], MlflowClient.log_batch

    def limited(self, run_id, metrics=(), params=(), tags=(), **settings):
        _validate_batch_log_limits(metrics, params, tags)
        sizes.append(len(metrics) + len(params))
        return log(self, run_id, metrics=metrics, params=params, tags=tags, **settings)

    monkeypatch.setattr(MlflowClient, "log_batch", limited)
    return sizes


def test_a_run_holds_its_whole_recipe(uri, tmp_path, strict):
    """MLflow takes 100 params at a time and 6000 characters of each; recipe.json has all of them in full."""
    client, long = connect_client(uri), "x" * 7000
    params = {f"key{number}": number for number in range(250)} | {"long": long, "none": None}
    run_id = open_mlflow_run(client, "e", "r", params, (tmp_path / "artifacts").as_uri(), Input("/a/shards/", "abc", 7))
    assert sum(strict) == 252
    found = client.get_run(run_id)
    assert found.data.params == {**{key: str(value) for key, value in params.items()}, "long": long[:6000]}
    assert json.loads((tmp_path / "artifacts" / run_id / "artifacts" / "recipe.json").read_text()) == params
    (seen,) = found.inputs.dataset_inputs
    assert (seen.dataset.name, seen.dataset.digest, seen.dataset.source_type) == ("shards", "abc", "local")
    assert (json.loads(seen.dataset.source), json.loads(seen.dataset.profile)) == (
        {"uri": "/a/shards/"},
        {"num_rows": 7},
    )
    assert [(tag.key, tag.value) for tag in seen.tags] == [("mlflow.data.context", "training")]


def test_a_run_that_goes_on_is_running_again_and_keeps_what_it_was(uri):
    """The recipe stays as first logged; each experiment and each name has its own run."""
    client = connect_client(uri)
    parent = open_mlflow_run(client, "e", "sweep", {}, None)
    first = open_mlflow_run(client, "e", "r", {"lr": 1}, None, parent=parent)
    fail_run(client, first)
    assert client.get_run(first).info.status == "FAILED"
    assert open_mlflow_run(client, "e", "r", {"lr": 2, "more": 3}, None) == first
    found = client.get_run(first)
    assert (found.info.status, found.info.run_name, found.data.params) == ("RUNNING", "r", {"lr": "1", "more": "3"})
    assert found.data.tags["mlflow.parentRunId"] == parent
    assert open_mlflow_run(client, "other", "r", {}, None) != first
    assert "mlflow.parentRunId" not in client.get_run(parent).data.tags
    finish_run(client, first)
    assert client.get_run(first).info.status == "FINISHED"


def test_a_run_that_has_ended_keeps_the_time_of_its_end(uri):
    client = connect_client(uri)
    run_id = open_mlflow_run(client, "e", "r", {}, None)
    close_run(client, run_id, "KILLED")
    ended = client.get_run(run_id).info
    time.sleep(0.02)
    close_run(client, run_id, "KILLED")
    assert client.get_run(run_id).info.end_time == ended.end_time
    assert (ended.status, client.get_run(run_id).info.status) == ("KILLED", "KILLED")
    close_run(client, run_id, "FINISHED")
    assert client.get_run(run_id).info.status == "FINISHED"
    assert (has_run(client, run_id), has_run(client, "0" * 32)) == (True, False)


def test_a_server_that_is_away_is_no_store_without_the_run():
    """Otherwise a sweep would leave its trials' runs open and report that they are in another store."""

    class Away:
        def get_run(self, run_id):
            raise MlflowException("no route")

    with pytest.raises(MlflowException, match="no route"):
        has_run(Away(), "0" * 32)


def test_a_metric_keeps_its_step_and_its_time(uri, tmp_path):
    """Metrics of a dead process keep them too; the newest value is that of the last step, however late it was sent."""
    run_id = open_mlflow_run(connect_client(uri), "e", "r", {}, None)
    times = {1: 1_700_000_001_000, 2: 1_700_000_003_000}
    lines = [json.dumps({"step": step, "time": stamp, "values": {"loss": 1.0 / step}}) for step, stamp in times.items()]
    (tmp_path / "spool").write_text("\n".join(lines) + "\n")
    begin = int(time.time() * 1000)
    tracker = Tracker(uri, run_id, tmp_path / "spool")
    tracker.metrics(3, {"loss": 0.25})
    assert tracker.close()
    history = connect_client(uri).get_metric_history(run_id, "loss")
    assert [(each.step, each.value) for each in history] == [(1, 1.0), (2, 0.5), (3, 0.25)]
    assert [each.timestamp for each in history[:2]] == [times[1], times[2]]
    assert begin <= history[2].timestamp <= int(time.time() * 1000)
    assert tracking.read_latest_metrics(connect_client(uri), run_id) == {"loss": 0.25}


def test_more_metrics_than_the_server_takes_at_once(uri, tmp_path, strict):
    """MLflow refuses more than 1000 in a batch, from one step or from many steps that waited together."""
    run_id = open_mlflow_run(connect_client(uri), "e", "r", {}, None)
    wide = {f"m{number}": float(number) for number in range(1, 1502)}
    lines = [{"step": step, "time": step, "values": {"a": 1.0, "b": -step, "c": 0.5 * step}} for step in range(1, 401)]
    lines.append({"step": 401, "time": 401, "values": wide})
    (tmp_path / "spool").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert deliver_leftovers(uri, run_id, tmp_path / "spool")
    assert sum(strict) == 1200 + 1501
    assert steps(uri, run_id, "c") == list(range(1, 401))
    metrics = connect_client(uri).get_run(run_id).data.metrics
    assert {key: value for key, value in metrics.items() if key.startswith("m")} == wide


def test_steps_that_wait_twice_are_logged_once(uri, tmp_path):
    """A dead process left steps 1 to 3; the next one computes 2 and 3 again, and 4 twice, before and after sending."""
    run_id = open_mlflow_run(connect_client(uri), "e", "r", {}, None)
    lines = [json.dumps({"step": step, "time": 0, "values": {"loss": float(step)}}) for step in (1, 2, 3)]
    (tmp_path / "spool").write_text("\n".join(lines) + "\n")
    tracker = Tracker(uri, run_id, tmp_path / "spool")
    for step in (2, 3, 4):
        tracker.metrics(step, {"loss": float(step)})
    assert tracker.drain(60.0)
    tracker.metrics(4, {"loss": 4.0})
    assert tracker.close()
    assert steps(uri, run_id) == [1, 2, 3, 4]


def test_steps_are_never_logged_twice(uri, tmp_path):
    """This includes the metrics of the start-up, which have step 0."""
    run_id = open_mlflow_run(connect_client(uri), "e", "r", {}, None)
    tracker = Tracker(uri, run_id, tmp_path / "spool")
    for step in (0, 1, 2, 3):
        tracker.metrics(step, {"loss": float(step)})
    assert tracker.close()
    # a restart from step 1 computes steps 2 and 3 again
    tracker = Tracker(uri, run_id, tmp_path / "spool")
    for step in (2, 3, 4):
        tracker.metrics(step, {"loss": float(step), "new": 0.0})
    assert tracker.close()
    # and a new start computes all of them again
    tracker = Tracker(uri, run_id, tmp_path / "spool")
    tracker.metrics(0, {"loss": 0.0, "new": 0.0})
    assert tracker.close()
    assert steps(uri, run_id) == [0, 1, 2, 3, 4]
    # a metric that step 0 did not have before is new
    assert steps(uri, run_id, "new") == [2, 3, 4, 0]
    assert not (tmp_path / "spool").exists()


def test_what_a_dead_process_left_arrives(uri, tmp_path):
    """The next process sends unsent lines on disk and drops a torn last line."""
    run_id = open_mlflow_run(connect_client(uri), "e", "r", {}, None)
    lines = [json.dumps({"step": step, "time": 0, "values": {"loss": 0.5}}) for step in (1, 2)]
    (tmp_path / "spool").write_text("\n".join(lines) + '\n{"step": 3, "ti')
    tracker = Tracker(uri, run_id, tmp_path / "spool")
    tracker.metrics(3, {"loss": 0.25})
    assert tracker.close()
    assert steps(uri, run_id) == [1, 2, 3]


def test_what_is_not_sent_in_time_is_sent_by_the_next_process(uri, tmp_path, monkeypatch):
    """A tracker that is closed while the server is away leaves its metrics on disk."""
    run_id = open_mlflow_run(connect_client(uri), "e", "r", {}, None)
    spool, log = tmp_path / "spool.jsonl", MlflowClient.log_batch

    def away(self, *arguments, **settings):
        raise MlflowException("no route")

    monkeypatch.setattr(MlflowClient, "log_batch", away)
    tracker = Tracker(uri, run_id, spool)
    tracker.metrics(1, {"loss": 1.0})
    assert not tracker.close(0.5)
    assert len(spool.read_text().splitlines()) == 1
    monkeypatch.setattr(MlflowClient, "log_batch", log)
    assert deliver_leftovers(uri, run_id, spool)
    assert steps(uri, run_id) == [1]


@pytest.fixture
def away(monkeypatch) -> threading.Event:
    """Return an event; while it is set, the server accepts nothing."""
    gone = threading.Event()
    for name in ("log_batch", "log_artifact"):
        real = getattr(MlflowClient, name)

        def call(self, *arguments, real=real, **settings):
            if gone.is_set():
                raise MlflowException("no route")
            return real(self, *arguments, **settings)

        monkeypatch.setattr(MlflowClient, name, call)
    return gone


def dead(batch: list) -> None:
    raise OSError("this process is dead")


def test_a_first_worker_that_moves_takes_along_what_waits(uri, tmp_path, away):
    """The server goes away after step 2. At the checkpoint of step 5 the worker moves to a machine with an empty disk
    and continues from step 6. In the end every step and every picture is there once, with its time."""
    client, backlog = connect_client(uri), str(tmp_path / "run" / "unsent")
    run_id = open_mlflow_run(client, "e", "r", {}, (tmp_path / "artifacts").as_uri())
    first = Tracker(uri, run_id, tmp_path / "one.jsonl", backlog)
    for step in (1, 2):
        first.metrics(step, {"loss": float(step)})
    first.secure(20.0)
    assert not Path(backlog).exists()  # nothing is written while the server answers
    away.set()
    for step in (3, 4, 5):
        first.metrics(step, {"loss": float(step)})
    first.tags({"moved": "yes"})
    first.image(5, "grid", Image.new("L", (2, 2), 5))
    first.secure(0.1)
    first.metrics(6, {"loss": 6.0})  # after the checkpoint: computed again
    first.lines.send = first.images.send = dead  # the process and its machine are gone
    second = Tracker(uri, run_id, tmp_path / "two.jsonl", backlog)
    away.clear()
    for step in (6, 7):
        second.metrics(step, {"loss": float(step)})
    assert second.close(30.0)
    assert steps(uri, run_id) == list(range(1, 8))
    assert [item.path for item in client.list_artifacts(run_id, "samples")] == ["samples/grid-0000005.png"]
    assert client.get_run(run_id).data.tags["moved"] == "yes"
    assert not Path(backlog).exists()
    assert deliver_leftovers(uri, run_id, tmp_path / "one.jsonl")  # the first machine comes back
    assert steps(uri, run_id) == list(range(1, 8))
    assert [value.value for value in client.get_metric_history(run_id, "loss")] == [float(step) for step in range(1, 8)]


def test_steps_that_come_late_are_logged(uri, tmp_path):
    """Steps 5 and 10 lie on one disk while 15 and 20 are logged from another; each arrives once, in any order."""
    run_id = open_mlflow_run(connect_client(uri), "e", "r", {}, None)
    lines = [json.dumps({"step": step, "time": step, "values": {"loss": float(step)}}) for step in (10, 5, 15)]
    (tmp_path / "one").write_text("\n".join(lines) + "\n")
    tracker = Tracker(uri, run_id, tmp_path / "two")
    for step in (15, 20):
        tracker.metrics(step, {"loss": float(step)})
    assert tracker.close()
    assert deliver_leftovers(uri, run_id, tmp_path / "one")
    assert sorted(steps(uri, run_id)) == [5, 10, 15, 20]
    assert tracking.read_latest_metrics(connect_client(uri), run_id) == {"loss": 20.0}


def test_a_run_that_ends_while_the_server_is_away_leaves_its_backlog_to_the_driver(uri, tmp_path, away):
    """The driver runs on another machine than the worker, and sends the backlog beside the checkpoints."""
    run_id, backlog = open_mlflow_run(connect_client(uri), "e", "r", {}, None), str(tmp_path / "unsent")
    away.set()
    tracker = Tracker(uri, run_id, tmp_path / "one", backlog)
    tracker.metrics(1, {"loss": 1.0})
    assert not tracker.close(0.2)
    assert not deliver_leftovers(uri, run_id, tmp_path / "driver", backlog, timeout=0.2)
    away.clear()
    assert deliver_leftovers(uri, run_id, tmp_path / "driver", backlog)
    assert steps(uri, run_id) == [1]
    assert not Path(backlog).exists()


def test_a_refused_entry_does_not_block_the_others(uri, tmp_path, capsys):
    run_id = open_mlflow_run(connect_client(uri), "e", "r", {}, None)
    tracker = Tracker(uri, run_id, tmp_path / "spool")
    tracker.metrics(1, {"no+such+name": 1.0})
    tracker.metrics(2, {"loss": 1.0})
    assert tracker.close(20.0)
    assert steps(uri, run_id) == [2]
    assert "refused" in capsys.readouterr().out


@pytest.mark.parametrize("bad", ["http://127.0.0.1:9", "./mlruns", "file:///tmp/mlruns"])
def test_stores_that_do_not_answer_are_named(bad):
    with pytest.raises(ValueError, match=bad.replace(".", r"\.")):
        connect_client(bad)


def unusable(tmp_path) -> dict[str, tuple[str, str]]:
    """Return URIs of SQLite stores that cannot be opened, with their errors."""
    text, cut = tmp_path / "notes.txt", tmp_path / "cut.db"
    text.write_text("these are notes, and no database\n" * 50)
    cut.write_bytes(b"SQLite format 3\0" + bytes(200))
    return {
        "text": (f"sqlite:///{text}", "no SQLite database"),
        "cut": (f"sqlite:///{cut}", "database"),
        "folder": (f"sqlite:///{tmp_path}", "Is a directory"),
        "below a file": (f"sqlite:///{text}/m.db", "cannot be opened"),
        "memory": ("sqlite:///:memory:", "stores nothing"),
        "no file": ("sqlite://", "stores nothing"),
        "no driver": ("mysql+nosuch://localhost/m", "mysql"),
    }


@pytest.mark.parametrize("kind", ["text", "cut", "folder", "below a file", "memory", "no file", "no driver"])
def test_a_store_that_is_no_database_is_named_at_once(tmp_path, kind):
    """The error is one sentence without the query, and comes before MLflow's retries of a minute and a half."""
    uri, said = unusable(tmp_path)[kind]
    begin = time.monotonic()
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        connect_client(uri)
    assert uri in str(caught.value)
    assert "SQL:" not in str(caught.value)
    assert time.monotonic() - begin < 60.0


@pytest.fixture
def short_waits():
    """A tenth of a second for the 20 in which MLflow has SQLite wait for another process, whatever the URI asks."""

    def shorten(connection, cursor, statement, parameters, context, many):
        return statement.replace("busy_timeout = 20000", "busy_timeout = 100"), parameters

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", shorten, retval=True)
    yield
    sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", shorten)


@pytest.mark.usefixtures("short_waits")
def test_a_locked_database_is_explained(tmp_path, empty_store, caplog):
    """Another process holds its write lock and does not end."""
    path = shutil.copy(empty_store, tmp_path)
    uri = f"sqlite:///{path}?timeout=0.1"
    client = connect_client(uri)
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ValueError, match="another process holds the database locked"):
            connect_client(uri)
        with (
            pytest.raises(RuntimeError, match="another process holds the database locked"),
            tracking.report_server_errors(uri),
        ):
            client.create_experiment("e")
    assert "Traceback" not in caplog.text
    client.create_experiment("e")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Postgres:
    """A PostgreSQL server on loopback in a temporary folder; it has its own user if the tests run as root, which
    PostgreSQL refuses."""

    def __init__(self, programs: Path) -> None:
        self.programs, self.folder, self.port = (
            programs,
            Path(tempfile.mkdtemp(prefix="raysde-postgresql-")),
            free_port(),
        )
        self.user = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        if self.user:
            shutil.chown(self.folder, "postgres", "postgres")
        self.run("initdb", "--username", "raysde", "--auth", "trust", "--encoding", "UTF8", "--no-sync")
        options = f"-h 127.0.0.1 -p {self.port} -k {self.folder} -F"
        self.run(
            "pg_ctl", "--wait", "--timeout", "60", "--log", str(self.folder / "log"), "--options", options, "start"
        )
        self.uri = f"postgresql+psycopg2://raysde@127.0.0.1:{self.port}/postgres"

    def run(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), "--pgdata", str(self.folder / "data"), *arguments]
        subprocess.run(command, cwd=self.folder, timeout=120, check=True, stdout=subprocess.DEVNULL, **self.user)

    def remove(self) -> None:
        self.run("pg_ctl", "--wait", "--timeout", "60", "--mode", "immediate", "stop")
        shutil.rmtree(self.folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path):
    """Return the URI of an MLflow server's database: a SQLite file, or a PostgreSQL server if one can be started."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/m.db"
        return
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), key=lambda path: float(path.parts[-3]))
    if not installed:
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    if importlib.util.find_spec("psycopg2") is None:
        pytest.skip("needs PostgreSQL's driver: pip install psycopg2-binary")
    found = Postgres(installed[-1].parent)
    yield found.uri
    found.remove()


class Server:
    """An MLflow server on a database, which can be stopped and started."""

    def __init__(self, folder, database: str) -> None:
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.command = [
            sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database, "--port", str(self.port),
            "--artifacts-destination", str(folder / "artifacts"), "--workers", "1"]  # fmt: skip
        self.log, self.process = folder / "server.log", None

    def start(self) -> None:
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        end = time.monotonic() + 240.0
        while self.process.poll() is None and time.monotonic() < end:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=1.0)
            except OSError:
                time.sleep(0.5)
            else:
                return
        raise TimeoutError(f"the MLflow server did not start: {self.log.read_text()[-2000:]}")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)
        self.process = None


@pytest.fixture
def server(tmp_path, database):
    found = Server(tmp_path, database)
    found.start()
    yield found
    found.stop()


AWAY = 60.0
"""Shortest time in seconds for which a server is away."""


class Disturbed:
    """A sink before a tracker: the server stops at one step and starts again at a later step, at least AWAY seconds
    after; until then that step waits."""

    def __init__(self, server: Server, tracker: Tracker, away: int, back: int) -> None:
        self.server, self.tracker, self.away, self.back = server, tracker, away, back
        self.recorded, self.longest, self.queued, self.since = Recorded(), 0.0, 0, 0.0
        self.starting = threading.Thread(target=server.start)

    def metrics(self, step, values) -> None:
        if step == self.away and self.server.process is not None:
            assert self.tracker.drain(60.0)
            self.server.stop()
            self.since = time.monotonic()
        if step == self.back and not self.starting.ident:
            time.sleep(max(0.0, self.since + AWAY - time.monotonic()))
            self.queued = len(self.tracker.lines.waiting)
            self.starting.start()
        begin = time.perf_counter()
        self.tracker.metrics(step, values)
        self.longest = max(self.longest, time.perf_counter() - begin)
        self.recorded.metrics(step, values)

    def image(self, step, name, image) -> None:
        self.tracker.image(step, name, image)
        self.recorded.image(step, name, image)


@pytest.mark.slow
def test_a_run_goes_on_while_its_server_is_away(server, recipe, tmp_path):
    """The bare loop trains 24 steps; the server is stopped at step 5 and started at step 20, a minute later. The loop
    never waits for it, and in the end every metric and every picture is there once, in order and with its value."""
    tree = recipe(train__length__steps=24, validation__rows=24, validation__every=8)
    tree["sampling"] = {"every": 8, "count": 1, "steps": 1, "prompts": ["two"]}
    client = connect_client(server.uri)
    run_id = open_mlflow_run(client, "e", "r", {}, None)
    tracker = Tracker(server.uri, run_id, tmp_path / "spool.jsonl")
    sink = Disturbed(server, tracker, away=5, back=20)
    train_here(run_of(loading.parse_recipe(tree)), sink)
    assert sink.longest < 2.0
    assert sink.queued >= 5
    sink.starting.join(150.0)
    assert tracker.close(120.0)
    keys = {key for _, values in sink.recorded.values for key in values}
    assert len(keys) > 5
    for key in keys:
        found = [(metric.step, metric.value) for metric in client.get_metric_history(run_id, key)]
        assert found == list(sink.recorded.of(key).items())
    assert [step for step in sink.recorded.of("train/loss")] == list(range(1, 25))
    assert sink.recorded.pictures == [8, 16, 24]
    assert [item.path for item in client.list_artifacts(run_id, "samples")] == [f"samples/grid-{step:07d}.png" for step in (8, 16, 24)]  # fmt: skip
    assert not list(tmp_path.glob("spool*"))


WRITER = """
import sys, threading
from pathlib import Path
from raysde.tracking import Tracker, default_artifact_root, connect_client, open_mlflow_run

uri, folder, first, steps = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
client = connect_client(uri)
trackers = []
for number in (first, first + 1):
    run_id = open_mlflow_run(client, "sweep", f"trial-{number}", {"number": number}, default_artifact_root(uri))
    trackers.append((number, Tracker(uri, run_id, folder / f"trial-{number}.jsonl")))

def write(number, tracker):
    for step in range(1, steps + 1):
        tracker.metrics(step, {"loss": number + step / 1024, "rate": -float(step)})
        if step % 10 == 0:
            tracker.drain(60.0)

threads = [threading.Thread(target=write, args=pair) for pair in trackers]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
sys.exit(0 if all(tracker.close(120.0) for _, tracker in trackers) else 1)
"""


def test_many_writers_of_one_database_lose_nothing(tmp_path):
    """Eight trials in four processes start at once in one experiment, on a file that does not exist yet."""
    uri, steps = f"sqlite:///{tmp_path / 'shared.db'}", 30
    command = [sys.executable, "-c", WRITER, uri, str(tmp_path)]
    writers = [subprocess.Popen([*command, str(first), str(steps)], cwd=ROOT, stderr=subprocess.PIPE, text=True) for first in (0, 2, 4, 6)]  # fmt: skip
    ended = [writer.communicate(timeout=240)[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * 4, "\n".join(ended)
    client = connect_client(uri)
    (experiment,) = [found for found in client.search_experiments() if found.name == "sweep"]
    runs = {run.info.run_name: run.info.run_id for run in client.search_runs([experiment.experiment_id])}
    assert sorted(runs) == [f"trial-{number}" for number in range(8)]
    for number in range(8):
        run_id = runs[f"trial-{number}"]
        loss = [(metric.step, metric.value) for metric in client.get_metric_history(run_id, "loss")]
        assert loss == [(step, number + step / 1024) for step in range(1, steps + 1)]
        assert sorted(metric.step for metric in client.get_metric_history(run_id, "rate")) == list(range(1, steps + 1))


def test_pictures_wait_on_disk_and_do_not_hold_up_metrics(uri, tmp_path, monkeypatch, capsys):
    """While the artifact store fails, metrics arrive; the next process sends the pictures."""
    run_id = open_mlflow_run(connect_client(uri), "e", "r", {}, (tmp_path / "artifacts").as_uri())
    spool, log = tmp_path / "spool.jsonl", MlflowClient.log_artifact

    def fails(self, *arguments, **settings):
        raise PermissionError("the bucket is not ours")

    monkeypatch.setattr(MlflowClient, "log_artifact", fails)
    tracker = Tracker(uri, run_id, spool)
    pictures = [Image.new("L", (2, 2), step) for step in (1, 2)]
    for step, picture in enumerate(pictures, 1):
        tracker.image(step, "grid", picture)
        tracker.metrics(step, {"loss": 1.0})
    assert tracker.lines.drain(30.0)
    assert not tracker.close(1.0)
    assert steps(uri, run_id) == [1, 2]
    assert "the bucket is not ours" in capsys.readouterr().out
    monkeypatch.setattr(MlflowClient, "log_artifact", log)
    assert deliver_leftovers(uri, run_id, spool)
    for step, picture in enumerate(pictures, 1):
        with Image.open(tmp_path / f"artifacts/{run_id}/artifacts/samples/grid-{step:07d}.png") as found:
            assert found.tobytes() == picture.tobytes()
    assert not list(tmp_path.glob("spool*"))
    assert deliver_leftovers(uri, run_id, spool)


def test_an_answer_that_is_lost_is_not_a_second_metric(uri, tmp_path, monkeypatch):
    """The server accepts the batch but its answer is lost: the entries that are sent again are stored once."""
    run_id = open_mlflow_run(connect_client(uri), "e", "r", {}, None)
    log, lost = MlflowClient.log_batch, []

    def loses(self, *arguments, **settings):
        log(self, *arguments, **settings)
        if len(lost) < 2:
            lost.append(True)
            raise MlflowException("the connection was closed")

    monkeypatch.setattr(MlflowClient, "log_batch", loses)
    tracker = Tracker(uri, run_id, tmp_path / "spool.jsonl")
    for step in (1, 2, 3):
        tracker.metrics(step, {"loss": float(step), "bad": float("nan")})
    assert tracker.close(60.0)
    assert len(lost) == 2
    assert steps(uri, run_id) == [1, 2, 3]
    assert steps(uri, run_id, "bad") == [1, 2, 3]


@pytest.mark.parametrize("code", ["BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED", "INTERNAL_ERROR"])
def test_what_may_pass_is_tried_again(code):
    """A full pool of connections or an expired token drops nothing."""
    sent, errors = [], [MlflowException.__new__(MlflowException)]
    errors[0].error_code = code

    def send(batch):
        if errors:
            raise errors.pop()
        sent.extend(batch)

    box = Outbox("test", send, is_refused, 1)
    for entry in range(5):
        box.put(entry)
    assert box.close(20.0)
    assert sent == [0, 1, 2, 3, 4]


def test_an_outbox_sends_together_what_waits(capsys):
    """Entries gather while a batch is being sent; a refused entry among them is dropped alone."""
    gate, batches = threading.Event(), []

    def send(batch):
        gate.wait(20.0)
        if "bad" in batch:
            raise ValueError("no")
        batches.append(batch)

    box = Outbox("test", send, lambda error: isinstance(error, ValueError), 4)
    box.put("first")
    time.sleep(0.2)
    assert not box.drain(0.1)
    for entry in ("a", "b", "c", "d", "e", "bad", "f"):
        box.put(entry)
    gate.set()
    assert box.close(20.0)
    assert batches == [["first"], ["a", "b", "c", "d"], ["e"], ["f"]]
    assert capsys.readouterr().out.count("refused") == 1


def test_the_default_store_is_at_a_fixed_place(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking.default_uri().startswith("sqlite:////")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert tracking.default_uri() == "http://server:5000"


@pytest.mark.parametrize(
    ("uri", "given", "expected"),
    [
        ("http://127.0.0.1:9", {}, ("2", "10")),
        ("http://127.0.0.1:9", {"MLFLOW_HTTP_REQUEST_TIMEOUT": "300"}, ("2", "300")),
        ("http://127.0.0.1:9", {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "7"}, ("7", "10")),
        ("sqlite:///a.db", {}, (None, None)),
    ],
)
def test_time_outs_that_the_user_set_stay(monkeypatch, uri, given, expected):
    names = ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT")
    for name in names:
        monkeypatch.setenv(name, "1")  # monkeypatch restores it afterwards
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    shorten_timeouts(uri)
    assert tuple(os.environ.get(name) for name in names) == expected
