"""Evaluation reports: files with the metrics of a model and the identity of that model."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from raysde.evaluation.metric import Metric, parse_metric
from raysde.io.documents import read_json


@dataclass(frozen=True)
class Subject:
    """The identity of an evaluated model.

    Attributes:
        source: name, path or URI that it was evaluated by.
        weights: sha256 of its averaged weights; None if it is no checkpoint.
        step: training step.
        name, version: registered name and version, if it was given by those.
        run_id: MLflow run, if it is known.
        generation: its sampling defaults as JSON values, see :mod:`raysde.models.sampling_defaults`.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    source: str
    weights: str | None = None
    step: int | None = None
    name: str | None = None
    version: str | None = None
    run_id: str | None = None
    generation: dict[str, Any] = field(default_factory=dict, hash=False)

    def check(self, weights: str | None, generation: Mapping[str, Any], who: str) -> None:
        """Check that the report is of the model ``who`` with these ``weights`` (sha256) and sampling defaults.

        Raises:
            ValueError: naming both models, if their weights or sampling defaults differ.
        """
        if self.weights is None or (self.weights, self.generation) != (weights, generation):
            raise ValueError(f"the report is of {self}, not of {who} ({_describe_model(weights, generation)})")

    def __str__(self) -> str:
        registered = f"models:/{self.name}/{self.version}"
        called = f"{self.source}, which was {registered}" if self.name and self.source != registered else self.source
        return f"{called} ({_describe_model(self.weights, self.generation)})"


def _describe_model(weights: str | None, generation: Mapping[str, Any]) -> str:
    """Describe a model by the hash of its weights, and its sampling defaults if it has some."""
    settings = f", drawing by {json.dumps(generation)}" if generation else ""
    return f"weights {(weights or 'unknown')[:12]}{settings}"


def read_report(path: str | Path) -> dict[str, Metric]:
    """Return the metrics of a report by name; the file is from `raysde evaluate` or a list of :meth:`Metric.to_json`.

    Raises:
        ValueError: naming the file and what is wrong in it.
    """
    content = _read_content(path)
    if isinstance(content, dict) and isinstance(content.get("figures"), list):
        found = parse_figures(content, path)
    elif isinstance(content, list):
        found = [parse_metric(entry, f"figure {number} of report {path}") for number, entry in enumerate(content)]
    else:
        found = []
    if not found:
        raise ValueError(
            f"report {path} must be a list of figures, with one at least; raysde evaluate --output writes one"
        )
    figures: dict[str, Metric] = {}
    for figure in found:
        if figure.name in figures:
            raise ValueError(f"report {path} holds {figure.name} twice; run raysde evaluate again")
        figures[figure.name] = figure
    return figures


def read_subject(path: str | Path) -> Subject | None:
    """Return the model that a report of `raysde evaluate` belongs to; None for a list of metrics, which names no model.

    Raises:
        ValueError: naming the file, if it cannot be read or lacks the model's weights.
    """
    content = _read_content(path)
    if not isinstance(content, dict):
        return None
    try:
        return TypeAdapter(Subject).validate_python(content.get("model"))
    except ValidationError:
        raise ValueError(f"report {path} does not name its model; give a report of raysde evaluate") from None


def _read_content(path: str | Path) -> Any:
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(
            f"report {path} cannot be read: {error.strerror}; `raysde evaluate --output {path}` writes one"
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"report {path} is not UTF-8: {error.reason} at byte {error.start}") from None
    return read_json(text, f"report {path}")


def parse_figures(report: Mapping[str, Any], path: str | Path) -> list[Metric]:
    """Return the metrics in a report of `raysde evaluate`.

    Raises:
        ValueError: naming the key that the report lacks, or the metric that is invalid.
    """
    try:
        found = [
            {
                "metric": each["name"],
                **{key: each[key] for key in ("value", "low", "high", "samples", "seed")},
                "features": each["network"] or None,
                "data": _comparison_settings(report, each),
                "overrides": None if each["name"] == "bpd" else report["overrides"],
            }
            for each in report["figures"]
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(f"report {path} is not from raysde evaluate: it lacks {error}") from None
    return [parse_metric(content, f"figure {number} of report {path}") for number, content in enumerate(found)]


def _comparison_settings(report: Mapping[str, Any], figure: Mapping[str, Any]) -> str:
    """Describe the real images of a metric: fingerprint, split, number, size and choice of rows, and the time of
    denoised metrics."""
    data = report["data"]
    size = "x".join(str(side) for side in data["shape"])
    noised = f" t={report['held_out']['t']}" if figure["name"].startswith("denoised") else ""
    chosen = f" rows {data['choice']}" if "choice" in data else ""
    return f"{data['fingerprint']} {data['split']} {figure['reference']} {size}{chosen}{noised}"


def choose_figure(figures: Mapping[str, Metric], metric: str | None) -> Metric:
    """Return the metric called ``metric``, or the only one if that is None.

    Raises:
        ValueError: if there is no metric of that name, or several and none is named.
    """
    names = ", ".join(sorted(figures))
    if metric is None and len(figures) != 1:
        raise ValueError(f"--metric must name the metric that decides: {names}")
    if metric is not None and metric not in figures:
        raise ValueError(f"no metric is called {metric!r}; there are {names}")
    return figures[metric] if metric is not None else next(iter(figures.values()))
