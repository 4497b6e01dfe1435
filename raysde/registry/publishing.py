"""Registration of checkpoints in MLflow, each once, also if a process is killed in between."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from mlflow.entities import LoggedModel, LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from raysde.checkpoints import checkpoint
from raysde.checkpoints.retention import checkpoint_metrics
from raysde.config.names import check_alias, check_name
from raysde.evaluation.report import Subject
from raysde.io.errors import name_place_of_write
from raysde.registry.description import describe_version
from raysde.registry.mlflow_model import write_card
from raysde.registry.models import (
    ABSENT,
    GENERATION,
    RUN,
    STEP,
    WEIGHTS,
    find_version,
    generation_of,
    list_versions,
    resolve_checkpoint,
)
from raysde.tracking import default_artifact_root, find_or_create_experiment, wait_for_transfer
from raysde.training.ranking import Ranking

NAME_TAG = "raysde.name"
"""Tag of a logged model: name of the registered model that it was logged for."""
BY, VALUE, CHOICE = "raysde.metric", "raysde.metric.value", "raysde.choice"
"""Tags of a version: name and value of the metric that ranks its run's checkpoints, and its choice: best or last."""
OWN_TAGS = (WEIGHTS, GENERATION, NAME_TAG)
"""Tags that distinguish the logged models of a run."""


def publish_checkpoint(
    client: MlflowClient,
    folder: Path,
    *,
    run_id: str | None,
    name: str,
    alias: str | None,
    chosen: str | None = None,
) -> str:
    """Log a checkpoint's averaged model, register it as a new version of ``name``, and move ``alias``.

    Weights that are already registered under that name, from that run, are not registered twice.

    Args:
        run_id: MLflow run of the checkpoint; None if it is not known.
        chosen: ``best`` or ``last`` of its run, stored as a tag; None if the user chose the checkpoint.

    Returns:
        The version's number.

    Raises:
        ValueError: as :func:`check_model_name`.
    """
    description = checkpoint.read_description(folder)
    tags = {STEP: str(description.step), WEIGHTS: description.files["ema.safetensors"]}
    if description.spec.generation:
        tags[GENERATION] = json.dumps(description.spec.generation)
    version = _find_published(client, name, run_id, tags)
    if version is None:
        _ensure_name(client, name)
        logged = _log_model(client, folder, description, run_id, name, tags)
        # without a run, MLflow 3.17 looks a model_id up in the process's default store
        model_id = logged.model_id if run_id else None
        created = client.create_model_version(
            name, source=logged.artifact_location, run_id=run_id, tags=tags, model_id=model_id
        )
        version = str(created.version)
    _write_version_description(client, name, version, description, run_id)
    _tag_ranking(client, name, version, description, chosen)
    if alias:
        client.set_registered_model_alias(name, alias, version)
    return version


def _tag_ranking(
    client: MlflowClient, name: str, version: str, description: checkpoint.Description, chosen: str | None
) -> None:
    """Store as tags of a version the metric that ranks the checkpoints of its run, and the choice among them."""
    ranking = Ranking.of(description.recipe)
    value = checkpoint_metrics(description).get(ranking.by)
    tags = {} if value is None else {BY: ranking.by, VALUE: repr(value)}
    for key, text in (tags if chosen is None else {**tags, CHOICE: chosen}).items():
        client.set_model_version_tag(name, version, key, text)


def _log_model(
    client: MlflowClient,
    folder: Path,
    description: checkpoint.Description,
    run_id: str | None,
    name: str,
    tags: Mapping[str, str],
) -> LoggedModel:
    """Log a checkpoint's averaged model, or complete it if a process was killed before it made the version."""
    spec, step = description.spec, str(description.step)
    params = {"sde": spec.sde.kind, "target": spec.target, "step": step}
    place = client.get_run(run_id).info.experiment_id if run_id else _choose_experiment(client, description)
    # MLflow allows dots in names of registered models, but not of logged ones
    label = name.replace(".", "-")
    tags = {**tags, NAME_TAG: name}
    logged = _find_logged_model(client, place, run_id, tags)
    if logged is None:
        logged = client.create_logged_model(
            place, name=label, source_run_id=run_id, tags=tags, params=params, model_type="score-sde"
        )
    elif logged.status == LoggedModelStatus.READY:
        return logged
    with tempfile.TemporaryDirectory(prefix="raysde-") as scratch:
        exported = Path(scratch) / "model"
        checkpoint.export_checkpoint(folder, exported)
        with name_place_of_write("the model's card", exported):
            write_card(exported, description, run_id=run_id, model_id=logged.model_id)
        with name_place_of_write(f"the model {name}", logged.artifact_location):
            largest = max(path.stat().st_size for path in exported.rglob("*") if path.is_file())
            with wait_for_transfer(largest):
                client.log_model_artifacts(logged.model_id, str(exported))
    return client.finalize_logged_model(logged.model_id, "READY")


def _find_logged_model(
    client: MlflowClient, experiment: str, run_id: str | None, tags: Mapping[str, str]
) -> LoggedModel | None:
    """Return the logged model of a run with these tags, or None."""
    found = client.search_logged_models([experiment], f"tags.`{WEIGHTS}` = '{tags[WEIGHTS]}'")
    own = {key: tags.get(key) for key in OWN_TAGS}
    for each in found:
        if (each.source_run_id or None) == run_id and {key: each.tags.get(key) for key in OWN_TAGS} == own:
            return each
    return None


def _write_version_description(
    client: MlflowClient, name: str, version: str, found: checkpoint.Description, run_id: str | None
) -> None:
    """Write the description of a version that has none; a description by the user stays."""
    if client.get_model_version(name, version).description:
        return
    pictures = [] if run_id is None else [item.path for item in client.list_artifacts(run_id, "samples")]
    picture = max((path for path in pictures if path.endswith(".png")), default=None)
    client.update_model_version(name, version, describe_version(name, version, found, run_id=run_id, picture=picture))


def _choose_experiment(client: MlflowClient, description: checkpoint.Description) -> str:
    name = str(description.recipe.get("tracking.experiment") or "raysde")
    return find_or_create_experiment(client, name, default_artifact_root(client.tracking_uri))


def _find_published(client: MlflowClient, name: str, run_id: str | None, tags: Mapping[str, str]) -> str | None:
    for version in list_versions(client, name):
        same = version.tags.get(GENERATION) == tags.get(GENERATION)
        if run_id in (None, version.run_id) and same and tags.items() <= version.tags.items():
            return str(version.version)
    return None


def register_model(
    client: MlflowClient, source: str, *, name: str | None, alias: str | None, subject: Subject | None = None
) -> ModelVersion:
    """Return the registered version of ``source`` (see :func:`raysde.registry.models.resolve_source`), registering it
    if needed.

    Args:
        name: registered name; None for the name in its recipe.
        alias: alias to move to the version, or None.
        subject: model that ``source`` must be, if there are metrics of it.

    Raises:
        ValueError: if there is no such model, it is a diffusers pipeline or another model than ``subject``, its name is
            unknown or invalid, or the alias is invalid.
    """
    if alias:
        check_alias(alias, "--alias")
    if source.startswith("models:"):
        found = find_version(client, source)
        if name not in (None, found.name):
            raise ValueError(f"{source} is registered as {found.name!r} already, not as {name!r}; leave --name out")
        if subject is not None:
            subject.check(found.tags.get(WEIGHTS), generation_of(found), source)
        if alias:
            client.set_registered_model_alias(found.name, alias, found.version)
        return found
    folder = resolve_checkpoint(source, client.tracking_uri)
    description = checkpoint.verify_checkpoint(folder)
    if subject is not None:
        subject.check(description.files["ema.safetensors"], description.spec.dump()["generation"], source)
    recipe = description.recipe
    name = name or recipe.get("tracking.register_as") or recipe.get("name")
    if name is None:
        raise ValueError(f"{folder} has no recipe with a name: give --name")
    check_name(name, "--name")
    run = RUN.fullmatch(source)
    version = publish_checkpoint(client, folder, run_id=run["run"] if run else None, name=name, alias=alias)
    return client.get_model_version(name, version)


def check_model_name(client: MlflowClient, name: str) -> None:
    """Check before any work that versions can be registered under a name.

    Raises:
        ValueError: if the registry has a prompt of that name, or a model whose name differs in capitals alone.
    """
    if _find_registered_model(client, name) is None:
        _ensure_free(client, name)


def _find_registered_model(client: MlflowClient, name: str) -> RegisteredModel | None:
    """Return the registered model with this name, or None.

    Raises:
        ValueError: if the store returns a model of another name: MySQL and SQL Server ignore case.
    """
    try:
        found = client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != ABSENT:
            raise
        return None
    if found.name != name:
        raise ValueError(
            f"the registry at {client.tracking_uri} holds a model {found.name!r} and takes {name!r} for the same name; "
            f"use {found.name!r}, or a name that differs in more than capitals"
        )
    return found


def _ensure_free(client: MlflowClient, name: str) -> None:
    """Check that no prompt has the name, because MLflow would treat a model's version as the prompt's.

    Raises:
        ValueError: if there is such a prompt.
    """
    prompts = client.search_prompts(filter_string=f"name = '{name}'")
    if any(prompt.name == name for prompt in prompts):
        raise ValueError(
            f"the registry at {client.tracking_uri} has a prompt named {name!r}, and no model can have its name; "
            "choose another (tracking.register_as, or --name)"
        )


def _ensure_name(client: MlflowClient, name: str) -> None:
    """Create the registered model if it does not exist.

    Raises:
        ValueError: as :func:`check_model_name`.
    """
    check_model_name(client, name)
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
