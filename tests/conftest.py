"""Fixtures that the tests share."""

import os
from pathlib import Path

import pytest
import torch

from raysde.data.dataset.manifest import Manifest
from tests.support.digits import write_digit_shards
from tests.support.training import Recorded, small_recipe

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Networks of the tests are so small that threads only wait for each other. Programs that tests start have as many
# threads, since kernels of other numbers of threads may round otherwise.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Manifest:
    return write_digit_shards(tmp_path_factory.mktemp("digits") / "shards")


@pytest.fixture
def recipe(digits, tmp_path):
    """Makes recipes on the shared digits whose runs are kept in the test's own folder."""
    return lambda **changes: small_recipe(digits, tmp_path / "runs", **changes)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """An MLflow database in which there is nothing yet, to be copied; making its tables takes seconds."""
    from raysde.tracking import connect_client

    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    connect_client(f"sqlite:///{path}")
    return path


@pytest.fixture
def sink() -> Recorded:
    return Recorded()
