"""Promotion: a version takes the champion's alias if its metric is better beyond both confidence intervals."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from mlflow.entities.model_registry import ModelVersion
from mlflow.tracking import MlflowClient

from raysde import tracking
from raysde.config.names import check_alias
from raysde.evaluation.metric import (
    Better,
    Margin,
    Metric,
    choose_direction,
    compute_margin,
    describe_mismatch,
    parse_metric,
)
from raysde.evaluation.report import Subject, choose_figure
from raysde.registry.models import STEP, WEIGHTS, find_version, generation_of

FIGURE, GATE = "raysde.figure.", "raysde.gate."
STRANGE = re.compile(r"[^\w. -]")
"""Characters that are not allowed in the name of an MLflow metric; slashes would start a group."""


@dataclass(frozen=True)
class Promotion:
    """The result of a promotion.

    Attributes:
        version: the new holder of the alias.
        figure, better: the deciding metric and its better direction; None if forced without metrics.
        before: the previous holder of the alias; None at the first promotion.
        margin: improvement over that version; None if there was nothing to compare with.
    """

    version: ModelVersion
    figure: Metric | None
    better: Better | None
    before: ModelVersion | None
    margin: Margin | None


def record_figures(client: MlflowClient, version: ModelVersion, found: Mapping[str, Metric]) -> None:
    """Store metrics as tags of a version, ``raysde.figure.METRIC``, and as metrics of its MLflow run."""
    for metric, figure in found.items():
        client.set_model_version_tag(version.name, version.version, FIGURE + metric, json.dumps(figure.to_json()))
    log_to_run(client, version.run_id, int(version.tags.get(STEP, 0)), found)


def log_to_run(client: MlflowClient, run_id: str | None, step: int, found: Mapping[str, Metric]) -> None:
    """Log metrics to the MLflow run that a model comes from, if there is one.

    Args:
        step: step of the model's checkpoint.
    """
    if found and run_id:
        tracking.log_figures(client, run_id, step, _name_metrics(found))


def _name_metrics(found: Mapping[str, Metric]) -> dict[str, float]:
    """Return the metrics and the ends of their intervals under valid MLflow names."""
    metrics: dict[str, float] = {}
    for metric, figure in found.items():
        name = f"figures/{STRANGE.sub('-', metric).strip('. ') or 'unnamed'}"
        metrics |= {name: figure.value, f"{name}/low": figure.low, f"{name}/high": figure.high}
    return metrics


def recorded_figures(version: ModelVersion) -> dict[str, Metric]:
    """Return the metrics stored by :func:`record_figures`.

    Raises:
        ValueError: naming the tag, if it is no metric.
    """
    tags = {key: value for key, value in sorted(version.tags.items()) if key.startswith(FIGURE)}
    return {key.removeprefix(FIGURE): parse_metric(json.loads(value), f"tag {key}") for key, value in tags.items()}


def promote_version(
    client: MlflowClient,
    source: str,
    *,
    found: Mapping[str, Metric] | None = None,
    subject: Subject | None = None,
    metric: str | None = None,
    better: Better | None = None,
    alias: str = "champion",
    reason: str | None = None,
) -> Promotion:
    """Move ``alias`` to the version that ``source`` names, if it is better than the current holder.

    Better means that the interval of the margin (see :func:`raysde.evaluation.metric.compute_margin`) lies above 0. The
    metrics and the decision are stored as tags of the version, ``raysde.figure.*`` and ``raysde.gate.*``. A refusal
    changes no version; the metrics are logged to the version's MLflow run in any case.

    Args:
        found: metrics of the version; None for those already recorded.
        subject: model that ``found`` belongs to, if it is known.
        metric: name of the deciding metric; may be None if there is one.
        better: better direction, for a metric with an unknown name.
        reason: reason to promote it whatever the metrics are.

    Raises:
        ValueError: if there is no such version, ``found`` belongs to another model or lacks the metric, the champion
            has none to compare with, the version is not better, or the alias is invalid.
    """
    check_alias(alias, "--alias")
    version = find_version(client, source)
    if subject is not None:
        who = f"version {version.version} of {version.name!r}"
        subject.check(version.tags.get(WEIGHTS), generation_of(version), who)
    before = _find_holder(client, version.name, alias)
    if before is not None and before.version == version.version:
        raise ValueError(f"version {version.version} of {version.name!r} is the {alias} already")
    figures = recorded_figures(version) if found is None else dict(found)
    log_to_run(client, version.run_id, int(version.tags.get(STEP, 0)), figures)
    if reason is None:
        decided = _decide_by_figures(version, before, figures, metric, better, alias)
    else:
        decided = _decide_by_force(version, before, figures, metric, better)
    record_figures(client, version, figures)
    _write_gate(client, decided, alias, reason)
    client.set_registered_model_alias(version.name, alias, version.version)
    return decided


def _find_holder(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    number = client.get_registered_model(name).aliases.get(alias)
    return None if number is None else client.get_model_version(name, number)


def _decide_by_figures(
    version: ModelVersion,
    before: ModelVersion | None,
    figures: Mapping[str, Metric],
    metric: str | None,
    better: Better | None,
    alias: str,
) -> Promotion:
    if not figures:
        raise ValueError(f"version {version.version} of {version.name!r} has no metrics: give --report")
    figure = choose_figure(figures, metric)
    way = choose_direction(figure.name, better)
    if before is None:
        return Promotion(version, figure, way, None, None)
    rival = recorded_figures(before).get(figure.name)
    if rival is None:
        raise ValueError(
            f"the {alias}, version {before.version} of {version.name!r}, has no {figure.name} to compare with: give"
            f" it one with raysde register models:/{version.name}@{alias} --report"
        )
    over = compute_margin(figure, rival, way)
    if over.low <= 0.0:
        raise ValueError(
            f"version {version.version} of {version.name!r} is not better than the {alias}: {figure} against {rival}, "
            f"a margin of {over}"
        )
    return Promotion(version, figure, way, before, over)


def _decide_by_force(
    version: ModelVersion,
    before: ModelVersion | None,
    figures: Mapping[str, Metric],
    metric: str | None,
    better: Better | None,
) -> Promotion:
    """Promote in any case; return the margin if the metrics can be compared."""
    if metric is None and len(figures) != 1:
        return Promotion(version, None, None, before, None)
    figure = choose_figure(figures, metric)
    way = choose_direction(figure.name, better)
    rival = None if before is None else recorded_figures(before).get(figure.name)
    over = None if rival is None or describe_mismatch(figure, rival) else compute_margin(figure, rival, way)
    return Promotion(version, figure, way, before, over)


def _write_gate(client: MlflowClient, decided: Promotion, alias: str, reason: str | None) -> None:
    """Write the tags of the decision, replacing those of an earlier promotion."""
    version, figure, before, over = decided.version, decided.figure, decided.before, decided.margin
    tags: dict[str, object] = {"alias": alias}
    if reason is not None:
        tags |= {"reason": reason}
    if figure is not None:
        tags |= {"metric": figure.name, "better": decided.better}
        tags |= {"value": figure.value, "low": figure.low, "high": figure.high}
    if before is not None:
        tags |= {"before": before.version}
    if over is not None:
        tags |= {"margin": over.value, "margin_low": over.low, "margin_high": over.high}
    for key in version.tags:
        if key.startswith(GATE) and key.removeprefix(GATE) not in tags:
            client.delete_model_version_tag(version.name, version.version, key)
    for key, value in tags.items():
        client.set_model_version_tag(version.name, version.version, GATE + key, str(value))
