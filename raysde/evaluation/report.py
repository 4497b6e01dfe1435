"""Figures of models: what an evaluation reports, each with its interval, and what one is better than another by."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from raysde.io.documents import read_json
from raysde.io.invalid import first_mistake

Better = Literal["lower", "higher"]
METRIC = re.compile(r"(?=.{1,200}$)\w[\w.: -]*(/\w[\w.: -]*)*", re.ASCII)
"""Names of metrics that MLflow takes in tags; slashes stand between parts of a name."""
PERCEPTUAL = ("denoised_lpips", "inpainted_lpips", "denoised_mse", "inpainted_mse")
LOWER = ("fid", "kid", "lpips", *PERCEPTUAL, "bpd", "bits_per_dim", "nll", "mse", "denoising_error")
PAIRED = ("denoised_psnr", "denoised_ssim", "inpainted_psnr", "inpainted_ssim")
HIGHER = ("inception_score", "is", "ssim", "psnr", *PAIRED, "precision", "recall", "accuracy", "prompt_accuracy")


@dataclass(frozen=True)
class Figure:
    """One metric of one model.

    Attributes:
        metric: its name, such as fid.
        value, low, high: the estimate and its confidence interval.
        samples, seed: the images it was measured on, and what they were drawn with.
        features: hash of the network that looked at them, if one did.
        data: what they were compared with, if they were: fingerprint, split, number and size of the real images.
        overrides: settings that they were drawn by instead of the model's own; None if it drew by its own.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    metric: str
    value: float
    low: float
    high: float
    samples: int
    seed: int
    features: str | None = None
    data: str | None = None
    overrides: str | None = None

    def __post_init__(self) -> None:
        if not METRIC.fullmatch(self.metric):
            raise ValueError(
                f"metric {self.metric[:40]!r} must be of letters, digits, spaces and _ . - : / to be kept as a tag"
            )
        if not self.low <= self.value <= self.high:
            raise ValueError(f"{self.metric} {self.value} lies outside its interval [{self.low}, {self.high}]")
        if self.samples < 1:
            raise ValueError(f"{self.metric} was measured on {self.samples} samples")

    def __str__(self) -> str:
        return f"{self.metric} {self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclass(frozen=True)
class Subject:
    """The model that figures are of.

    Attributes:
        source: what it was called when it was measured.
        weights: sha256 of its averaged weights; None if it is no checkpoint.
        step: of its training.
        name, version: under which it was registered, if it was named so.
        run_id: of its MLflow run, if that is known.
        generation: how it draws when nobody says, in JSON values, see :mod:`raysde.models.sampling_defaults`.
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
        """Guards against figures of another model.

        Args:
            weights, generation: of ``who``, which is to have the figures.

        Raises:
            ValueError: naming both, if other weights were measured, or these with other settings of their own.
        """
        if self.weights is None or (self.weights, self.generation) != (weights, generation):
            raise ValueError(f"the report is of {self}, not of {who} ({_known(weights, generation)})")

    def __str__(self) -> str:
        registered = f"models:/{self.name}/{self.version}"
        called = f"{self.source}, which was {registered}" if self.name and self.source != registered else self.source
        return f"{called} ({_known(self.weights, self.generation)})"


def _known(weights: str | None, generation: Mapping[str, Any]) -> str:
    """A model by its weights, and by its own settings where it has some."""
    settings = f", drawing by {json.dumps(generation)}" if generation else ""
    return f"weights {(weights or 'unknown')[:12]}{settings}"


@dataclass(frozen=True)
class Margin:
    """By how much one figure is better than another, with its confidence interval; negative if it is worse."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def read_report(path: str | Path) -> dict[str, Figure]:
    """The figures of a report, by metric: what `raysde evaluate` wrote, or a list of the fields of :class:`Figure`.

    Raises:
        ValueError: naming the file and what is wrong in it.
    """
    content = _content(path)
    if isinstance(content, dict) and isinstance(content.get("figures"), list):
        content = evaluated(content, path)
    if not isinstance(content, list) or not content:
        raise ValueError(f"report {path} must be a list of figures, with one at least")
    figures: dict[str, Figure] = {}
    for number, entry in enumerate(content):
        figure = parse_figure(entry, f"figure {number} of report {path}")
        if figure.metric in figures:
            raise ValueError(f"report {path} holds {figure.metric} twice")
        figures[figure.metric] = figure
    return figures


def read_subject(path: str | Path) -> Subject | None:
    """The model that a report of `raysde evaluate` is of; None for a list of figures, which does not say.

    Raises:
        ValueError: naming the file, if it cannot be read or lacks the model's weights.
    """
    content = _content(path)
    if not isinstance(content, dict):
        return None
    try:
        return TypeAdapter(Subject).validate_python(content.get("model"))
    except ValidationError:
        raise ValueError(f"report {path} does not say which model it is of: give one of raysde evaluate") from None


def _content(path: str | Path) -> Any:
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"report {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"report {path} is not UTF-8: {error.reason} at byte {error.start}") from None
    return read_json(text, f"report {path}")


def evaluated(report: Mapping[str, Any], path: str | Path) -> list[dict[str, Any]]:
    """The figures in a report of `raysde evaluate`.

    Raises:
        ValueError: naming what the report lacks.
    """
    try:
        return [
            {
                "metric": each["name"],
                **{key: each[key] for key in ("value", "low", "high", "samples", "seed")},
                "features": each["network"] or None,
                "data": _beside(report, each),
                "overrides": None if each["name"] == "bpd" else report["overrides"],
            }
            for each in report["figures"]
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(f"report {path} is not one of raysde evaluate: it lacks {error}") from None


def _beside(report: Mapping[str, Any], figure: Mapping[str, Any]) -> str:
    """What a figure was measured beside: the data, the split, how many real images, their size, and the time to which
    they were noised, if they were."""
    data = report["data"]
    size = "x".join(str(side) for side in data["shape"])
    noised = f" t={report['held_out']['t']}" if figure["name"].startswith("denoised") else ""
    return f"{data['fingerprint']} {data['split']} {figure['reference']} {size}{noised}"


def parse_figure(content: Any, where: str) -> Figure:
    """A figure from JSON values.

    Raises:
        ValueError: naming ``where`` and the field that is missing, unknown or out of range.
    """
    try:
        return TypeAdapter(Figure).validate_python(content)
    except ValidationError as error:
        field, said = first_mistake(error)
        raise ValueError(f"{where}: {field + ': ' if field else ''}{said}") from None


def chosen(figures: Mapping[str, Figure], metric: str | None) -> Figure:
    """The figure to judge by: that of ``metric``, or the only one.

    Raises:
        ValueError: if there is none of that name, or several and none is named.
    """
    names = ", ".join(sorted(figures))
    if metric is None and len(figures) != 1:
        raise ValueError(f"--metric must say which figure decides: {names}")
    if metric is not None and metric not in figures:
        raise ValueError(f"no figure is called {metric!r}; there are {names}")
    return figures[metric] if metric is not None else next(iter(figures.values()))


def direction(metric: str, given: Better | None = None) -> Better:
    """Whether the lower or the higher of two values of a metric is the better one.

    Args:
        given: for a metric whose name does not tell.

    Raises:
        ValueError: if neither the name nor the user tells, or they contradict each other.
    """
    known: Better | None = "lower" if metric in LOWER else "higher" if metric in HIGHER else None
    if known is None and given is None:
        raise ValueError(f"whether a lower or a higher {metric} is better is not known: give --better")
    if known and given and known != given:
        raise ValueError(f"--better {given}: a {known} {metric} is better")
    return known or given  # type: ignore[return-value]


def difference(figure: Figure, other: Figure) -> str | None:
    """What forbids to compare two figures, None if nothing does: FID and its kin depend on the number of samples, the
    feature network and the data, and a model that drew by its own settings is no match for one that was told others."""
    names = {"metric": "metric", "samples": "number of samples", "features": "feature network", "data": "data"}
    names |= {"overrides": "choice of settings in place of the model's own"}
    for what, name in names.items():
        one, two = getattr(figure, what), getattr(other, what)
        if one != two:
            return f"the {name} is {one} for the one and {two} for the other"
    return None


def margin(figure: Figure, other: Figure, better: Better) -> Margin:
    """By how much ``figure`` is better than ``other``.

    The interval of a difference from the two intervals (Zou and Donner 2008, doi:10.1002/sim.3095, section 2), which
    need not be symmetric; for independent normal estimates it is the exact one. Estimates that share their data go up
    and down together, so that it is too wide for them rather than too narrow.

    Raises:
        ValueError: if the two cannot be compared.
    """
    if said := difference(figure, other):
        raise ValueError(f"{figure.metric} of two versions cannot be compared: {said}")
    first, second = (other, figure) if better == "lower" else (figure, other)
    value = first.value - second.value
    below = math.hypot(first.value - first.low, second.high - second.value)
    above = math.hypot(first.high - first.value, second.value - second.low)
    return Margin(value, value - below, value + above)
