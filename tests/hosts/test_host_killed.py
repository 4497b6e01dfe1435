"""Four workers on four hosts, with data and checkpoints in an object store: a host is lost, and nothing else."""

import pytest

from tests.hosts.runs import EVERY, Submitted, bare_losses, close, upload_digits
from tests.support.training import same_tensors

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STEPS = 60


def test_a_killed_host_changes_nothing(cluster, tmp_path):
    """The run ends with the weights of the undisturbed run, bit for bit, and each planned row is seen once."""
    data = upload_digits(cluster, tmp_path / "shards")
    changes = {"resources__workers": 4, "train__length__steps": STEPS}
    calm = Submitted(cluster, data, "calm", **changes)
    cluster.wait_for_end(calm.job, 240)
    assert calm.check_rows() == 0
    storm = Submitted(cluster, data, "storm", **changes)
    storm.reach(2 * EVERY)
    cluster.kill(cluster.hosts[-1])
    cluster.add()
    cluster.wait_for_end(storm.job, 240)
    assert "starting again from step" in cluster.output(storm.job)
    # none, if the host dies right after a checkpoint; or more, if it dies while the newest one is on its way
    assert storm.check_rows() <= 2 * EVERY
    (tensors, state), (expected, expected_state) = storm.checkpoint(), calm.checkpoint()
    assert same_tensors(tensors, expected)
    assert state == expected_state
    assert storm.losses() == calm.losses()
    assert calm.losses() == close(bare_losses(calm.run, calm.tree, tmp_path / "bare"))
