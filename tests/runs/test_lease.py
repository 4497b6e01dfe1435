"""The lease of a run: one command at a time, and nothing written by a command that lost the run."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pyarrow.fs as pafs
import pytest
from PIL import Image

from raysde.config import loading
from raysde.io import filesystems
from raysde.io.errors import TakenOver
from raysde.io.processes import Process, this_process
from raysde.runs import claims
from raysde.runs import lease as leases
from raysde.runs.claims import Claim, Claims
from raysde.runs.history import track_run
from raysde.runs.lease import claim_run, hold_run, join_lease
from raysde.runs.local import train_here
from raysde.runs.run import open_run
from raysde.tracking import Tracker, connect_client
from tests.support.paths import ROOT
from tests.support.training import small_recipe

ELSEWHERE = Process("far", 17, "another machine", "1")
HOLDER = """
import sys, time
from raysde.io.errors import TakenOver
from raysde.runs.lease import claim_run
lease = claim_run(sys.argv[1], float(sys.argv[2]), print)
print("held", flush=True)
sys.stdin.readline()
try:
    lease.confirm()
    print("still held", flush=True)
except TakenOver as error:
    print(error, flush=True)
"""


@pytest.fixture
def folder(tmp_path) -> str:
    return str(tmp_path / "runs" / "small")


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def object_store(tmp_path, monkeypatch):
    """A file system without exclusive creation, as pyarrow's object stores."""
    (tmp_path / "bucket").mkdir()
    store = pafs.SubTreeFileSystem(str(tmp_path / "bucket"), pafs.LocalFileSystem())

    def opened(path: str) -> tuple[pafs.FileSystem, str]:
        return store, path.removeprefix("s3://")

    for module in (filesystems, claims):
        monkeypatch.setattr(module, "open_filesystem", opened)
    monkeypatch.setattr(claims, "SETTLE", 0.3)
    return "s3://bucket/small"


def start_holder(folder: str, seconds: float) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, folder, str(seconds)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def stop(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGSTOP)
    while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.01)


def test_a_second_command_is_refused_while_the_first_one_lives(folder, said):
    """The sentence names the process; nothing waits, and the holder keeps the run."""
    with hold_run(folder, 60.0, said.append) as lease:
        with pytest.raises(ValueError, match=f"run 'small' is being trained by process {os.getpid()} on .*kill"):
            claim_run(folder, 60.0, said.append)
        lease.confirm()
    assert said == []


def test_a_killed_command_on_this_machine_leaves_the_run_free_at_once(folder, said):
    """The lease would last an hour; the process id is enough to see that its holder ended."""
    process = start_holder(folder, 3600.0)
    process.kill()
    process.wait()
    claim_run(folder, 60.0, said.append).release()
    assert said == []


def test_a_run_that_was_let_go_is_free_and_its_claims_are_numbered_on(folder, said):
    """Numbers begin again only with a removed folder: a holder that was paused must find a later number than its
    own. One file is left."""
    for number in (1, 2, 3):
        with hold_run(folder, 60.0, said.append):
            assert Claims(folder).newest().number == number
    assert [path.name for path in (Path(folder) / "lease").iterdir()] == ["000000003.json"]
    assert said == []


def test_a_holder_on_another_machine_that_is_silent_expires(folder, said):
    """No clock is compared: the waiting command watches for as long as the holder's lease lasts."""
    assert Claims(folder).add(Claim(4, "w", "b", 1.0, (ELSEWHERE,)))
    begin = time.monotonic()
    claim_run(folder, 60.0, said.append).release()
    assert time.monotonic() - begin >= 1.0
    assert [line.partition(":")[0] for line in said] == ["run 'small' was left by process 17 on far"]


def test_a_holder_on_another_machine_that_gives_a_sign_of_life_keeps_its_run(folder, said):
    held, done = Claims(folder), threading.Event()
    assert held.add(Claim(1, "w", "b", 3.0, (ELSEWHERE,)))

    def beat() -> None:
        while not done.wait(0.2):
            held.write(Claim(1, "w", str(time.monotonic()), 3.0, (ELSEWHERE,)))

    thread = threading.Thread(target=beat)
    thread.start()
    with pytest.raises(ValueError, match="run 'small' is being trained by process 17 on far"):
        claim_run(folder, 60.0, said.append)
    done.set()
    thread.join()


def test_a_torn_claim_expires(folder, said, monkeypatch):
    """The command was killed while it wrote the file."""
    (Path(folder) / "lease").mkdir(parents=True)
    (Path(folder) / "lease" / "000000002.json").write_text('{"word": "a')
    monkeypatch.setattr(claims, "TORN", 0.5)
    claim_run(folder, 60.0, said.append).release()
    assert [line.partition(":")[0] for line in said] == ["run 'small' was left by another command"]


def test_a_stopped_holder_loses_the_run_and_knows_it_when_it_goes_on(folder, said):
    """SIGSTOP for longer than the lease lasts: the process id is there, but gives no sign of life."""
    process = start_holder(folder, 1.0)
    stop(process)
    with hold_run(folder, 60.0, said.append):
        process.send_signal(signal.SIGCONT)
        printed, _ = process.communicate("go on\n", timeout=60.0)
    assert printed.startswith(f"run 'small' was taken over by process {os.getpid()} on ")
    assert len(said) == 1


def test_a_lease_that_is_renewed_outlasts_its_seconds(folder, said):
    with hold_run(folder, 0.6, said.append) as lease:
        before = Claims(folder).newest()
        time.sleep(1.5)
        lease.check()
        after = Claims(folder).newest()
    assert (before.number, before.word) == (after.number, after.word)
    assert before.beat != after.beat


@pytest.mark.parametrize("kind", ["folder", "object_store"])
def test_of_many_commands_at_once_one_has_the_run(kind, request, monkeypatch):
    place, list_claims = request.getfixturevalue(kind), Claims._numbers
    start, listed, won = threading.Barrier(8), threading.Barrier(8), []

    def list_together(claims: Claims) -> list[int]:
        found = list_claims(claims)
        if listed.n_waiting or not found:  # none has written when all look
            listed.wait(20)
        return found

    def contend(number: int) -> None:
        found = Claims(place)
        claim = Claim(1, str(number), str(number), 60.0, (this_process(),))
        start.wait()
        if found.add(claim):
            won.append(claim.word)

    threads = [threading.Thread(target=contend, args=(number,)) for number in range(8)]
    with monkeypatch.context() as contest:
        if kind == "object_store":  # a folder refuses a second file of a name; a command need not look
            contest.setattr(Claims, "_numbers", list_together)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(won) == 1
    assert Claims(place).newest().word == won[0]


def test_a_later_worker_of_the_same_command_shuts_the_earlier_one_out(folder, said):
    """A worker that was cut off may live on while Ray starts another group; the command itself keeps the run."""
    with hold_run(folder, 60.0, said.append) as command:
        kept, stranger = Claims(folder), Process("far", 18, "another machine", "2")
        found = kept.newest()
        early = Claim(found.number + 1, command.word, "b", 60.0, (this_process(), stranger))
        assert kept.add(early)
        cut_off = leases.Lease(kept, early, stranger)
        cut_off.confirm()
        late = join_lease(folder, command.word)
        with pytest.raises(TakenOver):
            cut_off.confirm()
        late.confirm()
        command.confirm()
        cut_off.stop()
        late.stop()


def test_a_worker_of_a_command_that_lost_the_run_does_not_begin(folder, said):
    claim_run(folder, 60.0, said.append).release()
    with hold_run(folder, 60.0, said.append), pytest.raises(TakenOver):
        join_lease(folder, "the word of an earlier command")


def test_while_the_storage_is_away_nobody_knows_and_nothing_is_sent(folder, said, monkeypatch):
    """Training goes on; metrics wait, since another command may have taken the run over."""
    with hold_run(folder, 60.0, said.append) as lease:
        with monkeypatch.context() as away:
            away.setattr(leases, "now", lambda: time.monotonic() + 1e9)
            away.setattr(Claims, "newest", unreachable)
            lease.check()
            with pytest.raises(OSError, match="unreachable"):
                lease.confirm()
        found = Claims(folder).newest()
        assert Claims(folder).add(Claim(found.number + 1, "other", "b", 60.0, (ELSEWHERE,)))
        with monkeypatch.context() as later:
            later.setattr(leases, "now", lambda: time.monotonic() + 1e9)
            with pytest.raises(TakenOver, match="process 17 on far"):
                lease.check()


def unreachable(_: Claims) -> None:
    raise OSError("unreachable")


def test_an_ended_or_another_process_of_the_same_id_is_gone():
    me = this_process()
    assert me.is_running()
    assert not me.is_gone()
    other = Process(me.host, me.pid, me.machine, "1")
    assert (other.is_running(), other.is_gone()) == (False, True)
    assert (ELSEWHERE.is_running(), ELSEWHERE.is_gone()) == (False, False)
    child = subprocess.Popen(["true"])
    while Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    started = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]
    assert Process(me.host, child.pid, me.machine, started).is_gone()
    child.wait()


def train_command(tmp_path, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "raysde.cli", "train", str(tmp_path / "recipe.yaml"), "--no-ray", *overrides]


def steps_of(tmp_path) -> list[int]:
    return sorted(int(path.name[5:]) for path in (tmp_path / "runs" / "small").glob("step_*"))


@pytest.mark.parametrize(("lost", "raised"), [(True, TakenOver), (False, FileNotFoundError)])
def test_a_file_that_is_gone_after_a_run_was_taken_over(digits, tmp_path, monkeypatch, lost, raised):
    """The command that lost the run says so; without another command, the file is the error."""

    def confirm() -> None:
        if lost:
            raise TakenOver("run 'small' was taken over by another command")

    def save(*_: object) -> None:
        raise FileNotFoundError(2, "Cannot delete directory", "step_000000002")

    monkeypatch.setattr("raysde.runs.local.Saver.save", save)
    run = open_run(loading.parse_recipe(small_recipe(digits, tmp_path / "runs", checkpoint_every=2, text=None)))
    with pytest.raises(raised):
        train_here(run, None, lease=SimpleNamespace(check=lambda: None, confirm=confirm))


@pytest.mark.timeout(1500)
def test_a_stopped_run_that_was_taken_over_writes_nothing_more(digits, tmp_path, empty_store):
    """While the first command lives, a second one is refused with status 2. Stopped for longer than its lease, the
    first one loses the run; when it goes on, it ends with a sentence and leaves checkpoints and MLflow as they are."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    tree = small_recipe(
        digits, tmp_path / "runs", tracking__uri=uri, train__length__steps=100_000, checkpoint_every=1, text=None,
        resources__lease=2.0, keep__newest=1, log_every=20,
    )  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(loading.dump_yaml(tree))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    with subprocess.Popen(train_command(tmp_path), **pipes) as first:
        try:
            end = time.monotonic() + 500.0
            while not steps_of(tmp_path) and time.monotonic() < end and first.poll() is None:
                time.sleep(0.1)
            refused = subprocess.run(train_command(tmp_path), **pipes, timeout=500, check=False)
            assert refused.returncode == 2
            assert refused.stderr.startswith(f"raysde: run 'small' is being trained by process {first.pid} on ")
            # not while a request is on its way, which would arrive later
            logged = newest_logged_step(tmp_path)
            while newest_logged_step(tmp_path) == logged:
                time.sleep(0.02)
            stop(first)
            last = steps_of(tmp_path)[-1] + 25
            second = subprocess.run(
                train_command(tmp_path, f"train.length.steps={last}"), **pipes, timeout=500, check=False
            )
            assert second.returncode == 0, second.stderr
            assert f"run 'small' was left by process {first.pid} on " in second.stderr
            assert steps_of(tmp_path) == [last]
            kept = checkpoint_files(tmp_path)
            first.send_signal(signal.SIGCONT)
            _, err = first.communicate(timeout=500.0)
        finally:
            first.kill()
    assert first.returncode == 1
    assert err.strip().splitlines()[-1].startswith("raysde: run 'small' was taken over by ")
    assert checkpoint_files(tmp_path) == kept
    client = connect_client(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("raysde").experiment_id])
    assert run.info.status == "FINISHED"
    counts = Counter(each.step for each in client.get_metric_history(run.info.run_id, "train/loss"))
    assert counts == dict.fromkeys([*range(20, last, 20), last], 1)


def newest_logged_step(tmp_path) -> int:
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db", timeout=60.0)) as rows:
        return rows.execute("SELECT max(step) FROM metrics").fetchone()[0] or 0


def checkpoint_files(tmp_path) -> dict[str, tuple[bytes, int]]:
    """Return content and time of each checkpoint's description, and of the run's other files."""
    folder = tmp_path / "runs" / "small"
    files = [path for path in folder.rglob("*.json") if path.parent.name != "lease"]
    return {path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_a_claim_says_who_holds_it(folder, said):
    with hold_run(folder, 60.0, said.append):
        claim = json.loads((Path(folder) / "lease" / "000000001.json").read_text())
    assert claim["holders"][0]["pid"] == os.getpid()


class Lost:
    """A lease that another command takes while a checkpoint is written."""

    def check(self) -> None:
        pass

    def confirm(self) -> None:
        raise TakenOver("run 'small' was taken over")


def test_a_checkpoint_of_a_run_that_was_lost_meanwhile_is_never_seen(recipe, tmp_path):
    run = open_run(loading.parse_recipe(recipe(train__length__steps=2, checkpoint_every=1)))
    with pytest.raises(TakenOver):
        train_here(run, None, lease=Lost())
    assert list((tmp_path / "runs" / "small").glob("*step_*")) == []


def test_a_command_that_lost_its_run_sends_nothing_at_its_end(recipe, tmp_path, empty_store):
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    run, uri = open_run(loading.parse_recipe(recipe())), f"sqlite:///{tmp_path / 'mlflow.db'}"

    def lose() -> None:
        with track_run(run, uri, "0" * 32, Lost()) as sink:
            sink.metrics(1, {"train/loss": 1.0})
            raise TakenOver("run 'small' was taken over")

    with pytest.raises(TakenOver):
        lose()
    client = connect_client(uri)
    (tracked,) = client.search_runs([client.get_experiment_by_name("raysde").experiment_id])
    assert client.get_metric_history(tracked.info.run_id, "train/loss") == []


def test_a_tracker_of_a_run_that_was_lost_sends_nothing_and_leaves_the_files(tmp_path, empty_store):
    """The command that has the run now may be using the same spool."""
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = connect_client(uri)
    run_id = client.create_run(client.create_experiment("e")).info.run_id
    backlog = str(tmp_path / "unsent")
    tracker = Tracker(uri, run_id, tmp_path / "spool.jsonl", backlog, Lost().confirm)
    tracker.metrics(1, {"train/loss": 1.0})
    tracker.image(1, "grid", Image.new("L", (2, 2)))
    tracker.secure(5.0)
    assert not tracker.close(20.0)
    assert client.get_run(run_id).data.metrics == {}
    assert client.list_artifacts(run_id) == []
    assert (tmp_path / "spool.jsonl").read_text().count("train/loss") == 1
    assert not (tmp_path / "unsent").exists()
