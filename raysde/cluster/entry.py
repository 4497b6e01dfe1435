"""The function of Ray Train's workers, in a module without imports: Ray Train's controller loads it too."""

from typing import Any


def train_worker(settings: dict[str, Any]) -> dict[str, Any]:
    """Run the loop of one Ray Train worker, see :func:`raysde.cluster.worker.run_worker`."""
    from raysde.cluster.refusals import mark_refusals
    from raysde.cluster.worker import run_worker  # seconds of imports, which the controller does not need

    with mark_refusals():
        return run_worker(settings)
