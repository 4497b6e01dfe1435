"""The status of MLflow runs whose work ends early: failed with an error, or killed by a signal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mlflow.tracking import MlflowClient

from raysde.io.errors import Interrupted, TakenOver
from raysde.tracking.runs import fail_run, interrupt_run


@contextmanager
def mark_runs(
    client: MlflowClient, running: Callable[[], list[str]], interrupted: Callable[[], Interrupted]
) -> Iterator[None]:
    """Mark MLflow runs as failed if the context raises, or as killed at Ctrl-C or SIGTERM.

    A run that another command took over is that command's to mark.

    Args:
        running: function that returns the ids of the active runs.
        interrupted: function that returns the error that tells how to resume.

    Raises:
        Interrupted: at Ctrl-C or SIGTERM.
    """
    try:
        yield
    except (Interrupted, KeyboardInterrupt, SystemExit) as error:
        for run_id in running():
            interrupt_run(client, run_id)
        raise interrupted() from error
    except TakenOver:
        raise
    except Exception:
        for run_id in running():
            fail_run(client, run_id)
        raise
