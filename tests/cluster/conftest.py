"""One local Ray cluster per test file."""

import os

import pytest


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
