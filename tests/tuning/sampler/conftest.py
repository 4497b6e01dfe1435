"""The model of the tests of sampler settings."""

import pytest

from tests.support.checkpoints import write_model


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    """Return an untrained model of ten classes."""
    return write_model(tmp_path_factory.mktemp("models") / "labels", text=None, classes=10)
