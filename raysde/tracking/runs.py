"""MLflow runs: one for each training run whatever restarts happen, and how it ends."""

import json
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunStatus
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

RUN_TAG = "raysde.run"
PARAM_LIMIT = 6000
Ended = Literal["FINISHED", "KILLED", "FAILED"]


@dataclass(frozen=True)
class Input:
    """The data set of a run: its place, the hash of its content, and its number of rows."""

    path: str
    fingerprint: str
    rows: int

    def entity(self) -> DatasetInput:
        """For MLflow's own column of data sets."""
        kind = self.path.partition("://")[0] if "://" in self.path else "local"
        return DatasetInput(
            Dataset(
                name=self.path.rstrip("/").rpartition("/")[2],
                digest=self.fingerprint,
                source_type=kind,
                source=json.dumps({"uri": self.path}),
                profile=json.dumps({"num_rows": self.rows}),
            ),
            [InputTag("mlflow.data.context", "training")],
        )


def artifact_place(uri: str) -> str | None:
    """Beside a SQLite file, its artifacts; a server knows its own place."""
    if not uri.startswith("sqlite:///"):
        return None
    return (Path(uri.removeprefix("sqlite:///")).absolute().parent / "artifacts").as_uri()


def experiment_id(client: MlflowClient, name: str, artifacts: str | None) -> str:
    """The experiment called ``name``, created if there is none, also if several processes do so at once.

    Args:
        artifacts: where a newly created one keeps its files; None for the server's own place.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifacts))
        except MlflowException as error:
            found = client.get_experiment_by_name(name)
            if found is None:
                raise error
    return str(found.experiment_id)


def experiments(client: MlflowClient) -> dict[str, str]:
    """Return the identifiers of experiments by name, the latest first, without the one that MLflow makes by itself."""
    found = client.search_experiments(order_by=["creation_time DESC"])
    return {each.name: str(each.experiment_id) for each in found if each.name != "Default"}


def open_run(
    client: MlflowClient,
    experiment: str,
    name: str,
    params: Mapping[str, Any],
    artifacts: str | None,
    data: Input | None = None,
    parent: str | None = None,
) -> str:
    """The id of the run called ``name``, found by its tag or created; one whose beginning was cut short gets the rest.

    Args:
        params: the flat recipe.
        artifacts: where a newly created experiment keeps its files; None for the server's own place.
        data: what it is trained on.
        parent: id of the run that it is shown below, such as that of a sweep.
    """
    place = experiment_id(client, experiment, artifacts)
    runs = client.search_runs([place], filter_string=f"tags.`{RUN_TAG}` = '{name}'", max_results=1)
    if runs:
        client.update_run(runs[0].info.run_id, status=RunStatus.to_string(RunStatus.RUNNING))
        found = runs[0]
    else:
        tags = {RUN_TAG: name, "mlflow.source.name": "raysde train"}
        found = client.create_run(place, run_name=name, tags=tags | ({"mlflow.parentRunId": parent} if parent else {}))
    describe(client, found, params, data)
    return str(found.info.run_id)


def describe(client: MlflowClient, run: MlflowRun, params: Mapping[str, Any], data: Input | None) -> None:
    """Logs a run's recipe, and its data last: what has its data, or all its params where there are none, has all."""
    missing = [Param(key, str(value)[:PARAM_LIMIT]) for key, value in params.items() if key not in run.data.params]
    if (run.inputs and run.inputs.dataset_inputs) or not (missing or data):
        return
    for start in range(0, len(missing), 100):
        client.log_batch(run.info.run_id, params=missing[start : start + 100])
    client.log_dict(run.info.run_id, dict(params), "recipe.json")
    if data is not None:
        client.log_inputs(run.info.run_id, datasets=[data.entity()])


def last_steps(client: MlflowClient, run_id: str) -> dict[str, int]:
    """The last step at which each metric of a run was logged."""
    keys = client.get_run(run_id).data.metrics
    return {key: max(metric.step for metric in client.get_metric_history(run_id, key)) for key in keys}


def fail_run(client: MlflowClient, run_id: str) -> None:
    """Marks a run as failed, if the server can be reached: the error that failed it matters more."""
    with suppress(MlflowException):
        client.set_terminated(run_id, status=RunStatus.to_string(RunStatus.FAILED))


def finish_run(client: MlflowClient, run_id: str) -> None:
    """Marks a run as finished."""
    client.set_terminated(run_id, status=RunStatus.to_string(RunStatus.FINISHED))


def close_run(client: MlflowClient, run_id: str, ended: Ended) -> None:
    """Marks a run as finished, killed or failed; one that is so already keeps the time of its end."""
    if client.get_run(run_id).info.status != ended:
        client.set_terminated(run_id, status=ended)


def has_run(client: MlflowClient, run_id: str) -> bool:
    """Whether a store knows a run."""
    try:
        client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return True


def keep_files(client: MlflowClient, run_id: str, files: Mapping[str, bytes], tags: Mapping[str, str]) -> None:
    """Logs files by name, and tags, to a run; those of the same names are replaced."""
    with tempfile.TemporaryDirectory(prefix="raysde-") as folder:
        for name, content in files.items():
            path = Path(folder) / name
            path.write_bytes(content)
            client.log_artifact(run_id, str(path))
    for key, value in tags.items():
        client.set_tag(run_id, key, value)


def latest_metrics(client: MlflowClient, run_id: str) -> dict[str, float]:
    """The newest value of each metric."""
    return dict(client.get_run(run_id).data.metrics)


def metric(key: str, value: float, step: int = 0) -> Metric:
    """A metric stamped with the present time."""
    return Metric(key, value, int(time.time() * 1000), step)
