"""Plant mistakes in copies of the project, and run the tests that should fail.

Each mistake runs in its own process, forked from this one after the libraries have been imported, since importing them
takes longer than most of the tests.
"""

import atexit
import contextlib
import importlib
import multiprocessing
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from pathlib import Path

import pytest

from tools.mutants.mutant import ROOT, Mutant

COPIED = ("raysde", "tests", "jobs", "docs")
LIBRARIES = ("torch", "torchmetrics", "transformers", "diffusers", "sklearn.datasets", "scipy.integrate", "pyarrow")
"""Libraries that most tests import; no module of raysde, since its copies differ."""
TIMEOUT = 600
"""Time limit for the tests of a mistake, in seconds."""


class Trial:
    """One mistake in a copy of the project, and the process that runs its tests there."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant
        self.folder = Path(tempfile.mkdtemp(prefix="mutant-"))
        for name in COPIED:
            shutil.copytree(ROOT / name, self.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", self.folder)
        path = self.folder / mutant.path
        path.write_text(mutant.planted(path.read_text()))
        self.process = multiprocessing.get_context("fork").Process(target=run_tests, args=(self.folder, mutant.tests))
        self.process.start()
        self.end = time.monotonic() + TIMEOUT

    @property
    def late(self) -> bool:
        """True if the tests have exceeded the time limit."""
        return time.monotonic() > self.end

    def verdict(self) -> tuple[bool, str]:
        """Return True if the tests have failed, and the line of the first failure; end all processes that they
        started."""
        late = not wait([self.process.sentinel], timeout=0)
        with contextlib.suppress(ProcessLookupError):  # its process group may be gone
            os.killpg(self.process.pid or 0, signal.SIGKILL)
        self.process.join()
        lines = (self.folder / "output").read_text(errors="replace").splitlines()
        shutil.rmtree(self.folder, ignore_errors=True)
        if late:
            return True, f"ran for {TIMEOUT} seconds"
        failures = [line for line in lines if line.startswith(("FAILED ", "ERROR "))]
        killed = self.process.exitcode == pytest.ExitCode.TESTS_FAILED and bool(failures)
        return killed, (failures or lines[-1:] or [""])[0]


def run_tests(folder: Path, tests: str) -> None:
    """Run pytest in ``folder`` on the package there, and end this process with pytest's exit status."""
    os.setsid()
    sys.stdout = sys.stderr = output = (folder / "output").open("w")
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    os.chdir(folder)
    os.environ |= {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    for name in [name for name in sys.modules if name.partition(".")[0] in ("tools", "raysde", "tests")]:
        del sys.modules[name]
    sys.path[:] = [str(folder), *(place for place in sys.path if place not in ("", str(ROOT)))]
    status = pytest.main(["-x", "-p", "no:cacheprovider", *shlex.split(tests)])
    atexit._run_exitfuncs()  # a forked process skips them, and Ray ends its cluster there
    output.flush()
    os._exit(status)


def plant_each(mutants: Sequence[Mutant], jobs: int) -> Iterator[tuple[Mutant, bool, str]]:
    """Yield each mistake, True if its tests failed, and a line of text, as they end; ``jobs`` run at a time."""
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported
    for name in LIBRARIES:
        importlib.import_module(name)
    waiting, running = list(reversed(mutants)), list[Trial]()
    while waiting or running:
        while waiting and len(running) < jobs:
            mutant = waiting.pop()
            try:
                running.append(Trial(mutant))
            except ValueError as error:
                yield mutant, False, str(error)
        ended = wait([trial.process.sentinel for trial in running], timeout=1.0)
        for trial in [trial for trial in running if trial.process.sentinel in ended or trial.late]:
            running.remove(trial)
            yield trial.mutant, *trial.verdict()
