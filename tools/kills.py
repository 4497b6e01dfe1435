"""Kill a training run in a hundred ways, and compare the result of each with an undisturbed run.

    python tools/kills.py [--count 100] [--seed 0] [--only worker-saving,driver,17] [--timeout 900]

A seed determines all cases: the process to kill, the time, and one or two workers (two in every third case). Each case
is a run of `raysde train` with its own folder, MLflow store and Ray cluster. A case passes if the weights equal those
of an undisturbed run bit for bit; every metric is logged once at each of its steps with the undisturbed value; there is
one MLflow run, which is finished, one registered version and one logged model; and nothing is left behind: no process,
and no kind of file in the run's folder or the temporary folder that the undisturbed run does not leave.

A kill that comes too late to hit its target is tried once more at an earlier moment. The exit status is 1 if a case
fails, or misses its target twice.

worker-starting     SIGKILL to a worker while its group starts
worker-stepping     SIGKILL to a worker in the middle of training
worker-saving       SIGKILL to a worker while a checkpoint is written
worker-registering  SIGKILL to a worker after the checkpoint is in place, before it is reported to Ray Train
controller          SIGKILL to Ray Train's controller
driver              SIGKILL to `raysde train` while it starts, trains or registers; then the command is run again
server              SIGKILL to the MLflow server, which comes back later
store               the SQLite store is locked for longer than MLflow waits
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parents[1]
KINDS = (
    *("worker-starting", "worker-stepping", "worker-saving", "worker-registering"),
    *("controller", "driver", "server", "store"),
)
STEPS, EVERY, KEEP = 20, 5, 2
MARK = "RAYSDE_KILLS_CASE"
"""Environment variable that identifies the processes of a case, even after their parents died."""
METRICS = ("train/loss", "train/grad_norm", "train/lr", "val/loss", "val/denoising")
FATES = ("undisturbed", "killed", "missed")


@dataclass(frozen=True)
class Case:
    """One kill.

    Attributes:
        when: fraction of the phase after which the kill comes, from 0 to 1.
        wait: seconds of an outage, or seconds after the first sign of a short phase.
    """

    number: int
    kind: str
    workers: int
    when: float = 0.0
    wait: float = 0.0
    victim: int = 0

    @property
    def name(self) -> str:
        return f"{self.number:03d} {self.kind} ({self.workers})"


def schedule(count: int, seed: int) -> list[Case]:
    """Return the cases of a seed."""
    cases = []
    for number in range(count):
        random = Random(f"{seed}-{number}")
        turn, kind = number // len(KINDS), KINDS[number % len(KINDS)]
        workers = 2 if (turn + number % len(KINDS)) % 3 == 2 else 1  # every kind at every third turn
        cases.append(Case(number, kind, workers, random.random(), random.random(), random.randrange(workers)))
    return cases


@dataclass
class Trial:
    """A run of `raysde train` with its folder, store and server."""

    case: Case
    data: Path
    timeout: float
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="rk-")))
    fate: str = FATES[0]
    server: subprocess.Popen | None = None
    port: int = 0

    def __post_init__(self) -> None:
        self.end = time.monotonic() + self.timeout
        (self.folder / "tmp").mkdir()
        self.progress = self.folder / "progress"
        self.progress.touch()
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_"))}
        self.environment |= {
            **{MARK: self.folder.name, "RAYSDE_KILLS_PROGRESS": str(self.progress), "TMPDIR": str(self.folder / "tmp")},
            **{"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"},
        }
        if self.case.kind == "server":
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.port = free.getsockname()[1]
            self.serve()
        (self.folder / "recipe.yaml").write_text(json.dumps(self.recipe()))

    @property
    def database(self) -> Path:
        return self.folder / "mlflow.db"

    @property
    def run(self) -> Path:
        return self.folder / "runs" / "small"

    @property
    def calls(self) -> int:
        """Number of training calls so far, of all workers."""
        return self.progress.stat().st_size

    def recipe(self) -> dict:
        """Return a small recipe with every feature switched on, for one worker or two."""
        return {
            "name": "small",
            "storage": str(self.folder / "runs"),
            "data": {"path": str(self.data), "stream": "ray" if self.case.number % 2 else "worker"},
            "network": {"kind": "external", "factory": "tests.cluster.networks:Watched"},
            "text": {"kind": "scratch", "width": 16, "layers": 1, "heads": 2},
            "train": {"length": {"steps": STEPS}, "batch": 16, "lr": 1e-3, "warmup": 3, "microbatch": 8,
                      "ema": {"half_life": 100}},
            "validation": {"rows": 24, "every": 10},
            "sampling": {"every": 10, "count": 4, "steps": 2, "prompts": ["two"]},
            "resources": {"workers": self.case.workers, "cpus_per_worker": 1},
            "tracking": {"uri": f"http://127.0.0.1:{self.port}" if self.port else f"sqlite:///{self.database}"},
            "log_every": 1,
            "checkpoint_every": EVERY,
            "keep_checkpoints": KEEP,
        }  # fmt: skip

    def serve(self) -> None:
        """Start the MLflow server, and wait until it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
                   "--workers", "1", "--backend-store-uri", f"sqlite:///{self.database}",
                   "--artifacts-destination", str(self.folder / "artifacts")]  # fmt: skip
        log = (self.folder / "server.log").open("ab")
        place = self.folder / "server-tmp"  # a killed server leaves its own locks, which are not the run's
        place.mkdir(exist_ok=True)
        environment = {**self.environment, "TMPDIR": str(place)}
        self.server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        while self.in_time():
            with socket.socket() as trying:
                if trying.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.2)

    def stop_server(self) -> None:
        """Kill the server and the processes that it started."""
        if self.server is not None:
            os.killpg(self.server.pid, signal.SIGKILL)
            self.server.wait()

    def start(self) -> subprocess.Popen:
        """Start the command."""
        log = (self.folder / "train.log").open("ab")
        command = [sys.executable, "-m", "raysde.cli", "train", str(self.folder / "recipe.yaml")]
        return subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=log, stderr=log)

    def in_time(self) -> bool:
        """Return True while the case has time left."""
        if time.monotonic() > self.end:
            raise TimeoutError(f"{self.case.name} takes more than {self.timeout:.0f} s")
        return True

    def until(self, process: subprocess.Popen, happened: Callable[[], bool], pause: float = 0.01) -> bool:
        """Wait for an event; return False if the command ends first."""
        while self.in_time() and process.poll() is None:
            if happened():
                return True
            time.sleep(pause)
        return False

    def go(self) -> None:
        """Run the case to its end.

        Raises:
            RuntimeError: if the command fails although it was not killed itself.
            TimeoutError: if the case takes more than ``timeout`` seconds.
        """
        process = self.start()
        if self.case.kind in KINDS:
            hit = HIT[self.case.kind](self, process)
            self.fate = FATES[1 if hit else 2]
        code = self.ended(process)
        if self.case.kind == "driver" and code == -signal.SIGKILL:
            code = self.ended(self.start())
        if code:
            raise RuntimeError(f"exit status {code}: {(self.folder / 'train.log').read_text()[-1500:]}")

    def ended(self, process: subprocess.Popen) -> int:
        """Wait for the command, and return its exit status."""
        while self.in_time() and process.poll() is None:
            time.sleep(0.1)
        return int(process.returncode)

    def close(self, keep: bool) -> None:
        """End all processes of the case, and delete its folder unless ``keep``."""
        self.stop_server()
        for pid in processes(self.folder.name):
            os.kill(pid, signal.SIGKILL)
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)


def processes(mark: str, title: str = "") -> list[int]:
    """Return the ids of a case's processes whose command line begins with ``title``."""
    found, wanted = [], f"{MARK}={mark}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            if command.startswith(title.encode()) and wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return sorted(found)


def kill(trial: Trial, title: str, victim: int = 0) -> bool:
    """Send SIGKILL to one process of a case; return True if there was one."""
    found = processes(trial.folder.name, title)
    if not found:
        return False
    os.kill(found[victim % len(found)], signal.SIGKILL)
    return True


WORKER, CONTROLLER = "ray::RayTrainWorker", "ray::TrainController"


def at_step(trial: Trial, process: subprocess.Popen) -> bool:
    """Wait for the moment of the kill within training."""
    last = STEPS * 2  # two microbatches per step
    wanted = trial.calls + 1 + int(trial.case.when * (last - 4))
    return trial.until(process, lambda: trial.calls >= wanted)


def saved_step(case: Case) -> int:
    """Return the step of the checkpoint at which a kill comes."""
    return EVERY * (1 + int(case.when * (STEPS // EVERY)))


def worker_starting(trial: Trial, process: subprocess.Popen) -> bool:
    if not trial.until(process, lambda: bool(processes(trial.folder.name, WORKER)), 0.05):
        return False
    time.sleep(4.0 * trial.case.when)
    return kill(trial, WORKER, trial.case.victim)


def worker_stepping(trial: Trial, process: subprocess.Popen) -> bool:
    return at_step(trial, process) and kill(trial, WORKER, trial.case.victim)


def worker_saving(trial: Trial, process: subprocess.Popen) -> bool:
    partial = trial.run / f".step_{saved_step(trial.case):09d}.partial"
    workers: list[int] = []

    def begun() -> bool:
        if not workers and trial.calls:
            workers.extend(processes(trial.folder.name, WORKER))  # found before, since a checkpoint is written quickly
        return bool(workers) and partial.exists()

    if not trial.until(process, begun, 0.0005):
        return False
    time.sleep(0.03 * trial.case.wait)
    os.kill(workers[trial.case.victim % len(workers)], signal.SIGKILL)
    return True


def worker_registering(trial: Trial, process: subprocess.Popen) -> bool:
    place = trial.run / f"step_{saved_step(trial.case):09d}"
    if not trial.until(process, place.exists, 0.001):
        return False
    time.sleep(0.3 * trial.case.wait)
    return kill(trial, WORKER, trial.case.victim)


def controller(trial: Trial, process: subprocess.Popen) -> bool:
    if trial.case.wait < 0.25:  # while the group starts
        found = trial.until(process, lambda: bool(processes(trial.folder.name, CONTROLLER)), 0.05)
        time.sleep(8.0 * trial.case.when)
        return found and kill(trial, CONTROLLER)
    return at_step(trial, process) and kill(trial, CONTROLLER)


def driver(trial: Trial, process: subprocess.Popen) -> bool:
    if trial.case.wait < 0.3:
        began = time.monotonic()
        reached = trial.until(process, lambda: time.monotonic() - began > 25.0 * trial.case.when)
    elif trial.case.wait < 0.7:
        reached = at_step(trial, process)
    else:
        reached = trial.until(process, (trial.run / f"step_{STEPS:09d}").exists)
        time.sleep(6.0 * trial.case.when)
    if not reached or process.poll() is not None:
        return False
    process.kill()
    return True


def server(trial: Trial, process: subprocess.Popen) -> bool:
    if not at_step(trial, process):
        return False
    trial.stop_server()
    time.sleep(1.0 + 20.0 * trial.case.wait)
    trial.serve()
    return True


def store(trial: Trial, process: subprocess.Popen) -> bool:
    if not at_step(trial, process):
        return False
    with sqlite3.connect(trial.database, timeout=60.0, isolation_level=None) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        time.sleep(5.0 + 35.0 * trial.case.wait)
        lock.execute("ROLLBACK")
    lock.close()
    return True


HIT: dict[str, Callable[[Trial, subprocess.Popen], bool]] = {
    "worker-starting": worker_starting,
    "worker-stepping": worker_stepping,
    "worker-saving": worker_saving,
    "worker-registering": worker_registering,
    "controller": controller,
    "driver": driver,
    "server": server,
    "store": store,
}


def weights(trial: Trial) -> dict[str, str]:
    """Return the SHA-256 of each tensor in the last checkpoint, computed here."""
    from raysde.io.hashing import file_hash

    folder = trial.run / f"step_{STEPS:09d}"
    return {path.name: file_hash(path) for path in sorted(folder.glob("*.safetensors"))}


def history(trial: Trial) -> dict[str, list[tuple[int, float]]]:
    """Return all values of the metrics that a run repeats, as (step, value) pairs by key."""
    with sqlite3.connect(trial.database) as rows:
        return {
            key: rows.execute("SELECT step, value FROM metrics WHERE key = ? ORDER BY step, value", (key,)).fetchall()
            for key in METRICS
        }


def faults(trial: Trial, twin: Trial) -> Iterator[str]:
    """Yield each difference from an undisturbed run, and each process or file left behind."""
    if weights(trial) != weights(twin) or len(weights(trial)) < 3:
        yield "other weights"
    ours, theirs = history(trial), history(twin)
    for key in METRICS:
        if ours[key] != theirs[key]:
            yield f"{key} is logged at {[step for step, _ in ours[key]]}, or has other values"
    with sqlite3.connect(trial.database) as rows:
        runs = rows.execute("SELECT status FROM runs").fetchall()
        counts = {name: rows.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0] for name in
                  ("model_versions", "logged_models")}  # fmt: skip
    if runs != [("FINISHED",)]:
        yield f"MLflow runs: {[status for (status,) in runs]}"
    yield from (f"{count} {name}" for name, count in counts.items() if count != 1)
    steps = sorted(path.name for path in trial.run.iterdir() if "step_" in path.name)
    if steps != [f"step_{step:09d}" for step in range(STEPS - EVERY * (KEEP - 1), STEPS + 1, EVERY)]:
        yield f"checkpoints {steps}"
    trial.stop_server()
    trial.server = None
    deadline = time.monotonic() + 30.0
    while (alive := processes(trial.folder.name)) and time.monotonic() < deadline:
        time.sleep(0.5)
    if alive:
        yield f"processes {alive}"
    for what, listing in (("the run's folder", run_files), ("TMPDIR", temporary_files)):
        if left := listing(trial) - listing(twin):
            yield f"left in {what}: {sorted(left.elements())}"


def run_files(trial: Trial) -> Counter[str]:
    """Return the kinds of files in the run's folder, with their counts."""
    return Counter(kind_of(path.relative_to(trial.run).as_posix()) for path in trial.run.rglob("*"))


def temporary_files(trial: Trial) -> Counter[str]:
    """Return the kinds of files in the temporary folder, once each; Ray's own folder there has logs of every
    process."""
    return Counter({kind_of(path.name) for path in (trial.folder / "tmp").iterdir()})


def kind_of(path: str) -> str:
    """Return a path with # in place of numbers, hashes and the random suffix that tempfile makes."""
    return re.sub(r"[0-9a-f]{16,}|(?<=[-_p])[a-z0-9_]{8}$|[0-9]+", "#", path)


def run_case(case: Case, data: Path, timeout: float, twins: dict[int, Trial]) -> tuple[str, list[str], float]:
    """Run a case; return its outcome, the list of differences, and its seconds."""
    trial, began = Trial(case, data, timeout), time.monotonic()
    wrong: list[str] = []
    try:
        trial.go()
        wrong = list(faults(trial, twins[case.workers]))
    except (RuntimeError, TimeoutError, OSError, sqlite3.Error) as error:
        wrong = [f"{type(error).__name__}: {error}"]
    finally:
        trial.close(keep=bool(wrong))
    if wrong:
        wrong.append(f"its folder is {trial.folder}")
    return trial.fate, wrong, time.monotonic() - began


def undisturbed(workers: int, data: Path, timeout: float) -> Trial:
    """Return a finished run that was not disturbed."""
    trial = Trial(Case(-1, "none", workers), data, timeout)
    try:
        trial.go()
    except BaseException:
        trial.close(keep=True)
        raise
    return trial


def chosen(cases: list[Case], only: str | None) -> list[Case]:
    """Return the cases that ``--only`` selects, by kind or number."""
    if only is None:
        return cases
    names = only.split(",")
    strange = [name for name in names if name not in KINDS and not name.isdigit()]
    if strange:
        raise SystemExit(f"--only {strange[0]}: give numbers of cases, or kinds: {', '.join(KINDS)}")
    return [case for case in cases if case.kind in names or str(case.number) in names]


def main() -> None:
    sys.path.insert(0, str(ROOT))
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--count", type=int, default=100)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--only", help="kinds or numbers of cases, separated by commas")
    arguments.add_argument("--timeout", type=float, default=900.0, help="seconds that a case may take")
    given = arguments.parse_args()
    from tests.support.digits import write_digit_shards

    cases = chosen(schedule(given.count, given.seed), given.only)
    place = Path(tempfile.mkdtemp(prefix="rk-data-"))
    write_digit_shards(place / "shards")
    twins = {}
    for workers in sorted({case.workers for case in cases}):
        print(f"undisturbed, {workers} worker(s)", flush=True)
        twins[workers] = undisturbed(workers, place / "shards", given.timeout)
    table: dict[str, list[str]] = {}
    failed = 0
    for position, case in enumerate(cases, 1):
        fate, wrong, seconds = run_case(case, place / "shards", given.timeout, twins)
        if fate == "missed" and not wrong:
            print(f"{position}/{len(cases)} case {case.name}: missed, tried again earlier", flush=True)
            earlier = replace(case, when=case.when / 2.0)
            fate, wrong, seconds = run_case(earlier, place / "shards", given.timeout, twins)
        said = "; ".join(wrong) or "same"
        print(f"{position}/{len(cases)} case {case.name}: {fate}, {said}, {seconds:.0f} s", flush=True)
        table.setdefault(f"{case.kind} ({case.workers})", []).append("wrong" if wrong else fate)
        failed += bool(wrong) or fate == "missed"
    for twin in twins.values():
        twin.close(keep=False)
    shutil.rmtree(place)
    print(f"\n{'what':28} {'killed':>8} {'missed':>8} {'wrong':>8}")
    for what, fates in sorted(table.items()):
        print(f"{what:28} " + " ".join(f"{fates.count(fate):8d}" for fate in ("killed", "missed", "wrong")))
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
