"""Plant a mistake in a copy of the project, and run the tests that should notice."""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.mutants.mutant import ROOT, Mutant

COPIED = ("raysde", "tests", "jobs", "docs")


def killed(mutant: Mutant) -> tuple[bool, str]:
    """Return True if the tests fail with the mistake planted, and the line of the first failure."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        path = copy / mutant.path
        try:
            path.write_text(mutant.planted(path.read_text()))
        except ValueError as error:
            return False, str(error)
        environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *shlex.split(mutant.tests)]
        try:
            ended = subprocess.run(
                command, cwd=copy, env=environment, capture_output=True, text=True, timeout=600, check=False
            )
        except subprocess.TimeoutExpired:
            return True, "ran for ten minutes"
        failures = [line for line in ended.stdout.splitlines() if line.startswith("FAILED")]
        return ended.returncode == 1 and bool(failures), (failures or ended.stdout.splitlines()[-1:] or [""])[0]
