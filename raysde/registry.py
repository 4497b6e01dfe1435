"""Models by name: publishing a checkpoint to the MLflow registry, and loading from a name, a run or a folder."""

import re
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import mlflow
import torch
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model as MlflowModel
from mlflow.tracking import MlflowClient

from raysde import checkpoint, pipelines
from raysde.inference import Model
from raysde.tracking import client_for, default_uri

NAME = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")
RUN = re.compile(r"(?:runs:/)?(?P<run>[0-9a-f]{32})")


def publish(client: MlflowClient, folder: Path, *, run_id: str, name: str, alias: str | None) -> str:
    """Logs a checkpoint's averaged model to its run, registers it as a new version of ``name``, and moves ``alias``.

    A checkpoint of a run that is already registered at the same step is not registered twice.

    Returns:
        The version.
    """
    description = checkpoint.read(folder)
    step = str(description.step)
    version = _published(client, name, run_id, step)
    if version is None:
        run = client.get_run(run_id)
        params = {"sde": description.spec.sde.kind, "target": description.spec.target, "step": step}
        logged = client.create_logged_model(
            run.info.experiment_id, name=name, source_run_id=run_id, params=params, model_type="score-sde"
        )
        with tempfile.TemporaryDirectory(prefix="raysde-") as scratch:
            exported = Path(scratch) / "model"
            checkpoint.export(folder, exported)
            flavour = {"raysde": {"format": checkpoint.FORMAT, "version": description.versions["raysde"]}}
            card = MlflowModel(
                run_id=run_id,
                model_id=logged.model_id,
                flavors=flavour,
                utc_time_created=str(datetime.now(UTC).replace(tzinfo=None)),
            )
            card.save(str(exported / "MLmodel"))
            client.log_model_artifacts(logged.model_id, str(exported))
        client.finalize_logged_model(logged.model_id, "READY")
        _ensure_name(client, name)
        created = client.create_model_version(
            name, source=logged.artifact_location, run_id=run_id, tags={"raysde.step": step}, model_id=logged.model_id
        )
        version = str(created.version)
    if alias:
        client.set_registered_model_alias(name, alias, version)
    return version


def _published(client: MlflowClient, name: str, run_id: str, step: str) -> str | None:
    versions = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    return next((str(version.version) for version in versions if version.tags.get("raysde.step") == step), None)


def _ensure_name(client: MlflowClient, name: str) -> None:
    try:
        client.get_registered_model(name)
    except MlflowException:
        client.create_registered_model(name)


def set_alias(client: MlflowClient, source: str, alias: str) -> str:
    """Points ``alias`` at the registered version that ``source`` (models:/NAME@ALIAS or models:/NAME/VERSION) names.

    Raises:
        ValueError: if there is no such version.
    """
    version = _registered(client, source)
    client.set_registered_model_alias(version.name, alias, version.version)
    return f"models:/{version.name}@{alias} is version {version.version}"


def _registered(client: MlflowClient, source: str) -> ModelVersion:
    match = NAME.fullmatch(source)
    if match is None:
        raise ValueError(f"model {source!r} must read models:/NAME@ALIAS or models:/NAME/VERSION")
    name, alias = match["name"], match["alias"]
    try:
        client.get_registered_model(name)
    except MlflowException:
        raise ValueError(f"no model named {name!r} is registered at {client.tracking_uri}") from None
    try:
        return (
            client.get_model_version_by_alias(name, alias)
            if alias
            else client.get_model_version(name, match["version"])
        )
    except MlflowException:
        wanted = f"alias {alias!r}" if alias else f"version {match['version']}"
        raise ValueError(f"model {name!r} has no {wanted}") from None


def resolve(source: str, tracking_uri: str | None = None) -> Path:
    """The checkpoint folder that ``source`` means, downloaded if need be.

    Args:
        source: a checkpoint folder, a run's folder (its newest checkpoint), models:/NAME@ALIAS, models:/NAME/VERSION,
            a run id, or the folder of a diffusers pipeline.
        tracking_uri: of the MLflow store; :func:`raysde.tracking.default_uri` if None.

    Raises:
        ValueError: if there is no such thing.
    """
    if source.startswith("models:"):
        client = client_for(tracking_uri or default_uri())
        return _download(str(_registered(client, source).source), client.tracking_uri)
    if match := RUN.fullmatch(source):
        client = client_for(tracking_uri or default_uri())
        try:
            run = client.get_run(match["run"])
        except MlflowException:
            raise ValueError(f"no run {match['run']} at {client.tracking_uri}") from None
        models = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{match['run']}'")
        if not models:
            raise ValueError(f"run {match['run']} has logged no model")
        return _download(models[0].artifact_location, client.tracking_uri)
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise ValueError(f"{source!r} is neither a folder nor a registered model (models:/NAME@ALIAS)")
    if (folder / "checkpoint.json").exists() or pipelines.is_pipeline(folder):
        return folder
    found = checkpoint.newest(folder)
    if found is None:
        raise ValueError(f"{folder} is not a checkpoint: it holds no checkpoint.json")
    return found


def _download(location: str, tracking_uri: str) -> Path:
    return Path(mlflow.artifacts.download_artifacts(artifact_uri=location, tracking_uri=tracking_uri))


def load(
    source: str | Path,
    *,
    tracking_uri: str | None = None,
    allow_code: bool = False,
    device: torch.device | str | None = None,
) -> Model:
    """The model that ``source`` names (see :func:`resolve`), ready to sample.

    Args:
        allow_code: whether a network class that the checkpoint names may be imported.
        device: where its weights go; a GPU if there is one, by default.

    Raises:
        ValueError: if there is no such model, or its files are damaged.
    """
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    folder = resolve(str(source), tracking_uri)
    if pipelines.is_pipeline(folder):
        return pipelines.load(folder).model.to(place)
    return checkpoint.load_model(folder, allow_code=allow_code, device=place)
