"""The status of MLflow runs whose work ends early: failed with an error, or killed by a signal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mlflow.tracking import MlflowClient

from raysde.io.errors import Interrupted
from raysde.tracking.runs import fail_run, interrupt_run


@contextmanager
def mark_runs(
    client: MlflowClient, running: Callable[[], list[str]], interrupted: Callable[[], Interrupted]
) -> Iterator[None]:
    """Mark runs as failed with what is done here, or as killed at Ctrl-C or SIGTERM.

    Args:
        running: tells the ids of the runs that are under way.
        interrupted: tells how to go on.

    Raises:
        Interrupted: at Ctrl-C or SIGTERM.
    """
    try:
        yield
    except (Interrupted, KeyboardInterrupt, SystemExit) as error:
        for run_id in running():
            interrupt_run(client, run_id)
        raise interrupted() from error
    except Exception:
        for run_id in running():
            fail_run(client, run_id)
        raise
