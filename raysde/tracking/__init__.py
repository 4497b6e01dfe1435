"""MLflow runs: one for each training run whatever restarts happen; metrics never wait and are never logged twice."""

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
