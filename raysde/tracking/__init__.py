"""MLflow runs: one for each training run whatever restarts happen; metrics never wait and are never logged twice."""

from typing import TYPE_CHECKING

from raysde.aliases import on_first_use

if TYPE_CHECKING:
    from raysde.tracking.marking import marked
    from raysde.tracking.runs import (
        Ended,
        Input,
        artifact_place,
        close_run,
        experiment_id,
        experiments,
        fail_run,
        finish_run,
        has_run,
        interrupt_run,
        keep_files,
        latest_metrics,
        log_figures,
        logged_steps,
        open_run,
        set_tags,
        tags_of,
    )
    from raysde.tracking.store import MlflowClient, answering, client_for, default_uri, store_uri
    from raysde.tracking.tracker import Tracker, deliver_left, is_refused

__all__ = [
    "Ended",
    "Input",
    "MlflowClient",
    "Tracker",
    "answering",
    "artifact_place",
    "client_for",
    "close_run",
    "default_uri",
    "deliver_left",
    "experiment_id",
    "experiments",
    "fail_run",
    "finish_run",
    "has_run",
    "interrupt_run",
    "is_refused",
    "keep_files",
    "latest_metrics",
    "log_figures",
    "logged_steps",
    "marked",
    "open_run",
    "set_tags",
    "store_uri",
    "tags_of",
]

# loaded on first use: importing MLflow takes a second, which most processes of a cluster can do without
__getattr__ = on_first_use(
    __name__,
    {
        "raysde.tracking.marking": ("marked",),
        "raysde.tracking.runs": (
            "Ended",
            "Input",
            "artifact_place",
            "close_run",
            "experiment_id",
            "experiments",
            "fail_run",
            "finish_run",
            "has_run",
            "interrupt_run",
            "keep_files",
            "latest_metrics",
            "log_figures",
            "logged_steps",
            "open_run",
            "set_tags",
            "tags_of",
        ),
        "raysde.tracking.store": (
            "MlflowClient",
            "answering",
            "client_for",
            "default_uri",
            "store_uri",
        ),
        "raysde.tracking.tracker": (
            "Tracker",
            "deliver_left",
            "is_refused",
        ),
    },
)
