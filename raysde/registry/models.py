"""Lookup of models in the MLflow registry, and loading from a name, a run or a folder."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import torch
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.store.entities import PagedList
from mlflow.tracking import MlflowClient

from raysde import interop
from raysde.checkpoints import checkpoint
from raysde.checkpoints.names import find_checkpoint, split_name
from raysde.evaluation.report import Subject
from raysde.inference.model import Model
from raysde.io.near import did_you_mean
from raysde.io.progress import say
from raysde.tracking import connect_client, default_uri, has_run, report_server_errors, wait_for_transfer

LARGEST = 20 * 10**9
"""Bytes of a model that is downloaded, for the time-out: its size is not known before."""
STEP = "raysde.step"
"""Version tag: step of the checkpoint."""
WEIGHTS = "raysde.weights"
"""Version tag: sha256 of the averaged weights."""
GENERATION = "raysde.models.sampling_defaults"
"""Version tag: sampling defaults of the model in JSON, if it has some."""
ABSENT = "RESOURCE_DOES_NOT_EXIST"
NAME = re.compile(r"models:/(?P<name>[^/@:]+)(?:@(?P<alias>[^/@:]+)|/(?P<version>\d+))")
RUN = re.compile(r"(?:runs:/)?(?P<run>[0-9a-f]{32})")


def list_versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    """Return all versions of a registered model, the newest first; none if there is no such model."""
    found = _list_all_pages(lambda token: client.search_model_versions(f"name = '{name}'", page_token=token))
    return sorted(found, key=lambda version: -int(version.version))


def generation_of(version: ModelVersion) -> dict[str, Any]:
    """Return the sampling defaults of a version, as JSON values."""
    found: dict[str, Any] = json.loads(version.tags.get(GENERATION, "{}"))
    return found


def _list_all_pages(search: Callable[[str | None], PagedList]) -> list[Any]:
    """Return the entries of all pages."""
    page = search(None)
    found = list(page)
    while page.token:
        page = search(page.token)
        found += page
    return found


def find_version(client: MlflowClient, source: str) -> ModelVersion:
    """Return the version that models:/NAME@ALIAS or models:/NAME/VERSION names.

    Raises:
        ValueError: if there is none, listing the existing ones.
    """
    match = NAME.fullmatch(source)
    if match is None:
        known = [f"models:/{model.name}@{alias}" for model in list_registered_models(client) for alias in model.aliases]
        raise ValueError(
            f"model {source!r} must read models:/NAME@ALIAS or models:/NAME/VERSION{did_you_mean(source, known)}"
        )
    name, alias, number = match["name"], match["alias"], match["version"]
    aliases = list_aliases(client, name)
    if alias and alias not in aliases:
        there = ", ".join(f"{alias} (version {version})" for alias, version in sorted(aliases.items()))
        raise ValueError(
            f"model {name!r} has no alias {alias!r}; it has {there or 'none at all'}{did_you_mean(alias, aliases)}"
        )
    try:
        return client.get_model_version(name, number or aliases[alias])
    except MlflowException as error:
        if error.error_code != ABSENT:
            raise
        numbers = ", ".join(str(version.version) for version in reversed(list_versions(client, name)))
        raise ValueError(f"model {name!r} has no version {number}; it has {numbers or 'none at all'}") from None


def list_aliases(client: MlflowClient, name: str) -> dict[str, str]:
    """Return the version number of each alias of a registered model.

    Raises:
        ValueError: if there is no such model, listing the existing ones.
    """
    try:
        found = client.get_registered_model(name).aliases
        return {alias: str(version) for alias, version in found.items()}
    except MlflowException as error:
        if error.error_code != ABSENT:
            raise
        names = sorted(model.name for model in list_registered_models(client))
        raise ValueError(
            f"no model named {name!r} is registered at {client.tracking_uri}; there are "
            f"{', '.join(names) or 'none at all'}{did_you_mean(name, names)}; raysde train or raysde register makes "
            "one, and --tracking-uri names another store"
        ) from None


def list_registered_models(client: MlflowClient) -> list[RegisteredModel]:
    """Return all registered models, sorted by name."""
    return _list_all_pages(lambda token: client.search_registered_models(page_token=token))


def resolve_source(source: str, tracking_uri: str | None = None) -> Path:
    """Return the checkpoint folder that ``source`` names, downloaded if needed.

    Args:
        source: a checkpoint folder, a run's folder (its newest checkpoint), RUN@best, RUN@last or RUN@STEP for a
            checkpoint in a run's folder, models:/NAME@ALIAS, models:/NAME/VERSION, a run id, or the folder of a
            diffusers pipeline.
        tracking_uri: URI of the MLflow store; :func:`raysde.tracking.default_uri` if None.

    Raises:
        ValueError: if there is no such model.
        RuntimeError: if the MLflow store fails, or has lost the model's files.
    """
    match = RUN.fullmatch(source)
    if match or source.startswith("models:"):
        uri = tracking_uri or default_uri()
        client = connect_client(uri)
        with report_server_errors(uri):
            place = find_logged_model(client, match["run"]) if match else str(find_version(client, source).source)
            return _download(place, client.tracking_uri)
    folder, name = split_name(source)
    if name is not None and folder.is_dir():
        return find_checkpoint(folder, name, say)
    if name is not None or not folder.is_dir():
        is_file = name is None and folder.is_file()
        hint = "; it is a file, and a checkpoint is a folder" if is_file else interop.download_hint(source)
        raise ValueError(f"{source!r} is neither a folder nor a registered model (models:/NAME@ALIAS){hint}")
    if (folder / "checkpoint.json").exists() or interop.is_pipeline(folder):
        return folder
    found = checkpoint.find_newest_checkpoint(folder, say)
    if found is None:
        raise ValueError(
            f"{folder} is not a checkpoint: it holds no checkpoint.json; give the folder of a run or of a checkpoint, "
            "such as step_000000500"
        )
    return found


def find_logged_model(client: MlflowClient, run_id: str) -> str:
    """Return the location of the last model of a run.

    Raises:
        ValueError: if there is no such run, or it has logged no model.
    """
    if not has_run(client, run_id):
        raise ValueError(
            f"no run {run_id} at {client.tracking_uri}; see raysde ui for the runs, or give --tracking-uri"
        )
    experiment = client.get_run(run_id).info.experiment_id
    models = client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
    if not models:
        raise ValueError(f"run {run_id} has logged no model; sample from its checkpoint folder")
    return str(models[0].artifact_location)


def resolve_checkpoint(source: str, tracking_uri: str | None = None) -> Path:
    """Return the folder of :func:`resolve_source`, which must be a checkpoint.

    Raises:
        ValueError: if there is no such model, or it is a diffusers pipeline.
    """
    folder = resolve_source(source, tracking_uri)
    if not (folder / "checkpoint.json").exists():
        raise ValueError(f"{folder} is a diffusers pipeline; convert it to a checkpoint with raysde import first")
    return folder


def resolve_with_subject(source: str, tracking_uri: str | None = None) -> tuple[Path, Subject]:
    """Return the folder of :func:`resolve_source`, and the identity of its model for reports.

    Raises:
        ValueError: if the server does not answer, or there is no such model.
        RuntimeError: if the MLflow store fails, or has lost the model's files.
    """
    version = None
    if source.startswith("models:"):
        uri = tracking_uri or default_uri()
        client = connect_client(uri)
        with report_server_errors(uri):
            version = find_version(client, source)
    folder = resolve_source(f"models:/{version.name}/{version.version}" if version else source, tracking_uri)
    if not (folder / "checkpoint.json").exists():
        return folder, Subject(source)
    description, run = checkpoint.read_description(folder), RUN.fullmatch(source)
    return folder, Subject(
        source=source,
        weights=description.files["ema.safetensors"],
        step=description.step,
        name=version.name if version else None,
        version=str(version.version) if version else None,
        run_id=(version.run_id or None) if version else run["run"] if run else None,
        generation=description.spec.dump()["generation"],
    )


def _download(location: str, tracking_uri: str) -> Path:
    with wait_for_transfer(LARGEST):
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=location, tracking_uri=tracking_uri))


def load(
    source: str | Path,
    *,
    tracking_uri: str | None = None,
    allow_code: bool = False,
    device: torch.device | str | None = None,
) -> Model:
    """Load the model that ``source`` names (see :func:`resolve_source`), ready to sample.

    Args:
        allow_code: True to import a network class that the checkpoint names.
        device: device of the weights; None for a GPU if there is one.

    Raises:
        ValueError: if there is no such model, or its files are damaged.
    """
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    folder = resolve_source(str(source), tracking_uri)
    if interop.is_pipeline(folder):
        return interop.load(folder).model.to(place)
    return checkpoint.load_model(folder, allow_code=allow_code, device=place)
