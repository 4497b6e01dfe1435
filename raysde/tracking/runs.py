"""MLflow runs: one for each training run across restarts, with its end."""

import json
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunStatus, RunTag
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from raysde.io.errors import name_place_of_write
from raysde.io.filesystems import DATABASE
from raysde.io.passwords import hide_passwords

RUN_TAG, WORD_TAG = "raysde.runs.run", "raysde.runs.identity"
PARAM_LIMIT = 6000
Ended = Literal["FINISHED", "KILLED", "FAILED"]


@dataclass(frozen=True)
class Input:
    """The data set of a run: its place, the hash of its content, and its number of rows.

    Attributes:
        path: path or URI of the shards.
        fingerprint: hash of their content.
    """

    path: str
    fingerprint: str
    rows: int

    def entity(self) -> DatasetInput:
        """Return the data set as an MLflow dataset input with the context "training"."""
        kind = self.path.partition("://")[0] if "://" in self.path else "local"
        return DatasetInput(
            Dataset(
                name=self.path.rstrip("/").rpartition("/")[2],
                digest=self.fingerprint,
                source_type=kind,
                source=json.dumps({"uri": hide_passwords(self.path)}),
                profile=json.dumps({"num_rows": self.rows}),
            ),
            [InputTag("mlflow.data.context", "training")],
        )


def default_artifact_root(uri: str) -> str | None:
    """Return the URI of the folder ``artifacts`` beside a SQLite file; None for a server, which chooses the place
    itself."""
    match = DATABASE.fullmatch(uri)
    return None if match is None else (Path(match[2]).absolute().parent / "artifacts").as_uri()


def find_or_create_experiment(client: MlflowClient, name: str, artifacts: str | None) -> str:
    """Return the id of the experiment called ``name``, and create it if needed; concurrent calls are safe.

    Args:
        artifacts: artifact location of a new experiment; None for the server's default.
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


def list_experiments(client: MlflowClient) -> dict[str, str]:
    """Return the ids of experiments by name, the latest first, without MLflow's Default."""
    found = client.search_experiments(order_by=["creation_time DESC"])
    return {each.name: str(each.experiment_id) for each in found if each.name != "Default"}


def open_mlflow_run(
    client: MlflowClient,
    experiment: str,
    name: str,
    params: Mapping[str, Any],
    artifacts: str | None,
    data: Input | None = None,
    parent: str | None = None,
    word: str = "",
) -> str:
    """Return the id of the run called ``name``; create it if there is none, or complete one that was cut short.

    Args:
        params: the flat recipe.
        artifacts: artifact location of a new experiment; None for the server's default.
        data: training data.
        parent: id of the parent run, such as a sweep's.
        word: identity that distinguishes runs with the same name, see :mod:`raysde.runs.identity`.
    """
    place = find_or_create_experiment(client, experiment, artifacts)
    found = find_run(client, place, name, word)
    if found is not None:
        client.update_run(found.info.run_id, status=RunStatus.to_string(RunStatus.RUNNING))
    else:
        tags = {RUN_TAG: name, "mlflow.source.name": "raysde train"}
        tags |= {WORD_TAG: word} if word else {}
        found = client.create_run(place, run_name=name, tags=tags | ({"mlflow.parentRunId": parent} if parent else {}))
    log_description(client, found, params, data)
    return str(found.info.run_id)


def find_run(client: MlflowClient, experiment: str, name: str, word: str) -> MlflowRun | None:
    """Return the newest run of an experiment with this name and identity word, or None."""
    query = f"tags.`{RUN_TAG}` = '{name}'" + (f" AND tags.`{WORD_TAG}` = '{word}'" if word else "")
    token = None
    while True:
        page = client.search_runs([experiment], filter_string=query, page_token=token)
        for run in page:
            # some databases ignore case, and a query cannot ask for a missing tag
            if (run.data.tags.get(RUN_TAG), run.data.tags.get(WORD_TAG, "")) == (name, word):
                return run
        token = page.token
        if not token:
            return None


def log_description(client: MlflowClient, run: MlflowRun, params: Mapping[str, Any], data: Input | None) -> None:
    """Log a run's recipe without passwords, and its data last, so that a run with its data is known to be complete."""
    shown = json.loads(hide_passwords(json.dumps(dict(params))))
    missing = [Param(key, str(value)[:PARAM_LIMIT]) for key, value in shown.items() if key not in run.data.params]
    if (run.inputs and run.inputs.dataset_inputs) or not (missing or data):
        return
    for start in range(0, len(missing), 100):
        client.log_batch(run.info.run_id, params=missing[start : start + 100])
    client.log_dict(run.info.run_id, shown, "recipe.json")
    if data is not None:
        client.log_inputs(run.info.run_id, datasets=[data.entity()])


def list_logged_steps(client: MlflowClient, run_id: str) -> dict[str, set[int]]:
    """Return the steps at which each metric of a run was logged."""
    keys = client.get_run(run_id).data.metrics
    return {key: {metric.step for metric in client.get_metric_history(run_id, key)} for key in keys}


def fail_run(client: MlflowClient, run_id: str) -> None:
    """Mark a run as failed if the server answers; errors are ignored, because the original error matters more."""
    with suppress(MlflowException):
        client.set_terminated(run_id, status=RunStatus.to_string(RunStatus.FAILED))


def log_figures(client: MlflowClient, run_id: str, step: int, figures: Mapping[str, float]) -> None:
    """Log a model's metrics once, at the step of its checkpoint, if the run exists and is active."""
    if not has_run(client, run_id) or client.get_run(run_id).info.lifecycle_stage != "active":
        return
    for key, value in figures.items():
        known = client.get_metric_history(run_id, key) if key in client.get_run(run_id).data.metrics else []
        if (step, value) not in [(metric.step, metric.value) for metric in known]:
            client.log_metric(run_id, key, value, step=step)


def interrupt_run(client: MlflowClient, run_id: str) -> None:
    """Mark a run as killed if the server answers: the user ended it, and it can resume."""
    with suppress(MlflowException):
        client.set_terminated(run_id, status=RunStatus.to_string(RunStatus.KILLED))


def set_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of a run, replacing tags with the same names."""
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def finish_run(client: MlflowClient, run_id: str) -> None:
    """Mark a run as finished."""
    client.set_terminated(run_id, status=RunStatus.to_string(RunStatus.FINISHED))


def close_run(client: MlflowClient, run_id: str, ended: Ended) -> None:
    """Mark a run as finished, killed or failed; a run with that status keeps its end time."""
    if client.get_run(run_id).info.status != ended:
        client.set_terminated(run_id, status=ended)


def has_run(client: MlflowClient, run_id: str) -> bool:
    """Return True if the store has the run."""
    try:
        client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return True


def log_files(client: MlflowClient, run_id: str, files: Mapping[str, bytes], tags: Mapping[str, str]) -> None:
    """Log files by name, and tags, to a run, replacing those with the same names.

    Raises:
        OSError: naming a file that cannot be written to the temporary folder.
    """
    with tempfile.TemporaryDirectory(prefix="raysde-") as folder:
        for name, content in files.items():
            path = Path(folder) / name
            with name_place_of_write(name, folder):
                path.write_bytes(content)
            client.log_artifact(run_id, str(path))
    set_tags(client, run_id, tags)


def read_tags(client: MlflowClient, run_id: str) -> dict[str, str]:
    """Return the tags of a run."""
    return dict(client.get_run(run_id).data.tags)


def read_latest_metrics(client: MlflowClient, run_id: str) -> dict[str, float]:
    """Return the newest value of each metric."""
    return dict(client.get_run(run_id).data.metrics)
