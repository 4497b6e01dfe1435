"""MLflow runs, one for each training run across restarts; training never waits for metrics, each is logged once."""

from typing import TYPE_CHECKING

from raysde.aliases import import_on_first_use

if TYPE_CHECKING:
    from raysde.tracking.marking import mark_runs
    from raysde.tracking.runs import (
        Ended,
        Input,
        close_run,
        default_artifact_root,
        fail_run,
        find_or_create_experiment,
        finish_run,
        has_run,
        interrupt_run,
        list_experiments,
        list_logged_steps,
        log_figures,
        log_files,
        open_mlflow_run,
        read_latest_metrics,
        read_tags,
        set_tags,
    )
    from raysde.tracking.store import (
        MlflowClient,
        connect_client,
        default_uri,
        report_server_errors,
        store_uri,
        wait_for_transfer,
    )
    from raysde.tracking.tracker import Tracker, deliver_leftovers, is_refused

__all__ = [
    "Ended",
    "Input",
    "MlflowClient",
    "Tracker",
    "close_run",
    "connect_client",
    "default_artifact_root",
    "default_uri",
    "deliver_leftovers",
    "fail_run",
    "find_or_create_experiment",
    "finish_run",
    "has_run",
    "interrupt_run",
    "is_refused",
    "list_experiments",
    "list_logged_steps",
    "log_figures",
    "log_files",
    "mark_runs",
    "open_mlflow_run",
    "read_latest_metrics",
    "read_tags",
    "report_server_errors",
    "set_tags",
    "store_uri",
    "wait_for_transfer",
]

# loaded on first use: importing MLflow takes a second, and most processes of a cluster do not need it
__getattr__ = import_on_first_use(
    __name__,
    {
        "raysde.tracking.marking": ("mark_runs",),
        "raysde.tracking.runs": (
            "Ended",
            "Input",
            "default_artifact_root",
            "close_run",
            "find_or_create_experiment",
            "list_experiments",
            "fail_run",
            "finish_run",
            "has_run",
            "interrupt_run",
            "log_files",
            "read_latest_metrics",
            "log_figures",
            "list_logged_steps",
            "open_mlflow_run",
            "set_tags",
            "read_tags",
        ),
        "raysde.tracking.store": (
            "MlflowClient",
            "report_server_errors",
            "connect_client",
            "default_uri",
            "store_uri",
            "wait_for_transfer",
        ),
        "raysde.tracking.tracker": (
            "Tracker",
            "deliver_leftovers",
            "is_refused",
        ),
    },
)
