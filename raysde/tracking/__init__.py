"""MLflow runs: one for each training run whatever restarts happen; metrics never wait and are never logged twice."""

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
    keep_files,
    last_steps,
    latest_metrics,
    metric,
    open_run,
)
from raysde.tracking.store import MlflowClient, answering, client_for, default_uri
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
    "is_refused",
    "keep_files",
    "last_steps",
    "latest_metrics",
    "metric",
    "open_run",
]
