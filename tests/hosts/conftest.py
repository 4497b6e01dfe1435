"""A cluster of four hosts for each file of tests."""

import pytest

from tests.hosts.cluster import KEYS, Cluster
from tests.hosts.machines import Switch, missing_permission


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Start the cluster; this process has the keys of its object store too."""
    if reason := missing_permission():
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patch, Switch(tmp_path_factory.mktemp("hosts")) as switch:
        for name, value in KEYS.items():
            patch.setenv(name, value)
        yield Cluster(switch, 4)
