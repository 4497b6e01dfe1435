"""One local Ray cluster per test file."""

import os

import pytest
import torch


@pytest.fixture(scope="module")
def cluster():
    import ray

    from raysde.cluster.connection import connect

    os.environ.pop("RAY_ADDRESS", None)
    # an ended worker group is noticed at the next health check
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    connect()
    yield
    ray.shutdown()


@pytest.fixture
def one_thread():
    """Compute with one thread, as workers and actors with one CPU do; kernels round differently with several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
