"""Former module names lead to the current modules without loading them twice; public names are imported on first
use."""

import importlib
import subprocess
import sys

import pytest

import raysde
from raysde.aliases import MOVED, PACKAGES, current_name


@pytest.mark.parametrize("name", sorted(MOVED))
def test_a_former_name_is_the_module_of_today(name):
    module = importlib.import_module(name)
    assert module is importlib.import_module(MOVED[name])
    assert module.__name__ == MOVED[name]


def test_modules_below_a_former_package_are_not_loaded_twice():
    """Two copies of a module would have two classes of each name, and isinstance would fail between them."""
    former = importlib.import_module("raysde.solvers.grids")
    assert former is importlib.import_module("raysde.sampling.solvers.grids")
    assert current_name("raysde.solvers.grids") == "raysde.sampling.solvers.grids"
    assert current_name("raysde.solvers.usual") == "raysde.sampling.solvers.default"


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_a_package_that_was_a_module_has_its_names(package):
    names = [
        name for name, value in vars(importlib.import_module(PACKAGES[package])).items() if not name.startswith("_")
    ]
    assert names
    for name in names:
        assert hasattr(importlib.import_module(package), name)
    with pytest.raises(ImportError, match="nothing_such"):
        exec(f"from {package} import nothing_such")


def test_names_that_never_were_are_not_found():
    with pytest.raises(ModuleNotFoundError, match=r"raysde\.nothing"):
        importlib.import_module("raysde.nothing")
    with pytest.raises(AttributeError, match="nothing"):
        raysde.nothing  # noqa: B018


def test_public_names_are_those_that_are_documented():
    for name in raysde.__all__:
        assert getattr(raysde, name).__module__.startswith("raysde.")
    assert set(raysde.__all__) <= set(dir(raysde))


def test_the_mathematics_loads_neither_mlflow_nor_transformers():
    script = (
        "import sys, torch, raysde\n"
        "sde = raysde.VP()\n"
        "raysde.sample(lambda x, t: -x, sde, (2, 3), steps=2)\n"
        "print([name for name in ('mlflow', 'ray', 'transformers', 'pydantic', 'pyarrow') if name in sys.modules])\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert ended.stdout.strip() == "[]"


def test_a_command_that_trains_starts_without_slow_libraries():
    """The check of a recipe and the imports of driver and worker load none of the libraries that take seconds, which
    only some models and metrics need. The driver imports MLflow while Ray starts, and a tracker in its own threads."""
    script = (
        "import pathlib, sys, tempfile\n"
        "from raysde.cluster import job, worker\n"
        "from raysde.models.spec import fresh_model\n"
        "from raysde.runs.run import check_model\n"
        "from tests.support.models import spec_with\n"
        "check_model(spec_with(classes=10))\n"
        "fresh_model(spec_with(classes=10), [], 0)\n"
        "from raysde.tracking import Tracker\n"
        "Tracker('sqlite:///none.db', '0' * 32, pathlib.Path(tempfile.mkdtemp()) / 'spool')\n"
        "slow = ('mlflow', 'torchmetrics', 'transformers', 'matplotlib', 'sympy', 'torch._dynamo')\n"
        "print([name for name in slow if name in sys.modules])\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert ended.stdout.strip() == "[]"


def test_a_module_that_is_gone_says_what_to_do():
    with pytest.raises(ImportError, match=r"raysde\.scheduler is gone: diffusers\.ScoreSdeVeScheduler"):
        importlib.import_module("raysde.scheduler")
