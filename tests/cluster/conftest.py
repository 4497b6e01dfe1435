"""One local Ray cluster for each test file."""

import os

import pytest


@pytest.fixture(scope="module")
def cluster():
    import ray

    from raysde.cluster.session import connect

    os.environ.pop("RAY_ADDRESS", None)
    connect()
    yield
    ray.shutdown()
