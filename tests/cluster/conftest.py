"""One local Ray cluster for each test file."""

import os

import pytest


@pytest.fixture(scope="module")
def cluster():
    import ray

    from raysde.cluster.connection import connect

    os.environ.pop("RAY_ADDRESS", None)
    # the end of a worker group is noticed at the next look
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    connect()
    yield
    ray.shutdown()
