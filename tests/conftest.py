"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest
import torch

from raysde.data.dataset.manifest import Manifest
from tests.support.digits import write_digit_shards
from tests.support.training import Recorded, small_recipe

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# The tests' networks are too small for several threads. Programs that tests start use as many threads as the tests,
# since kernels round differently with another number of threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Manifest:
    return write_digit_shards(tmp_path_factory.mktemp("digits") / "shards")


@pytest.fixture
def recipe(digits, tmp_path):
    """Return a function that makes recipes on the shared digits, with runs in the test's own folder."""
    return lambda **changes: small_recipe(digits, tmp_path / "runs", **changes)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """Return an empty MLflow database to copy, since creating its tables takes seconds."""
    from raysde.tracking import connect_client

    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    connect_client(f"sqlite:///{path}")
    return path


@pytest.fixture
def sink() -> Recorded:
    return Recorded()
