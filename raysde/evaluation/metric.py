"""One metric of one model with its confidence interval, and by how much one is better than another."""

import math
import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, SkipValidation, TypeAdapter, ValidationError

from raysde.evaluation.metrics.jackknife import Influence
from raysde.io.invalid import first_mistake

Better = Literal["lower", "higher"]
METRIC = re.compile(r"(?=.{1,200}$)\w[\w.: -]*(/\w[\w.: -]*)*", re.ASCII)
"""Names of metrics that MLflow takes in tags; slashes stand between parts of a name."""
PERCEPTUAL = ("denoised_lpips", "inpainted_lpips", "denoised_mse", "inpainted_mse")
LOWER = ("fid", "kid", "lpips", *PERCEPTUAL, "bpd", "bits_per_dim", "nll", "mse", "denoising_error")
PAIRED = ("denoised_psnr", "denoised_ssim", "inpainted_psnr", "inpainted_ssim")
HIGHER = ("inception_score", "is", "ssim", "psnr", *PAIRED, "precision", "recall", "accuracy", "prompt_accuracy")


@dataclass(frozen=True)
class Metric:
    """A number that says how good a model is, with its interval of 95%.

    Attributes:
        name: of the metric, such as fid; "metric" in JSON.
        value, low, high: the estimate and its confidence interval.
        samples, seed: number of drawn images or held-out rows, and the seed of these and of every random choice.
        features: hash of the network that looked at the images, if one did.
        data: what they were compared with, if that is known: fingerprint, split, number and size of the real images.
        overrides: settings that they were drawn by instead of the model's own; None if it drew by its own.
        method: how the value and the interval were computed.
        reference: number of real images that the metric is measured against, 0 for none.
        influence: how each image moves the metric, of a metric of drawn images; it is never written with the rest.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)

    name: Annotated[str, Field(validation_alias="metric")]
    value: float
    low: float
    high: float
    samples: int
    seed: int
    features: str | None = None
    data: str | None = None
    overrides: str | None = None
    method: str = ""
    reference: int = 0
    influence: Annotated[Influence | None, SkipValidation] = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not METRIC.fullmatch(self.name):
            raise ValueError(
                f"metric {self.name[:40]!r} must be of letters, digits, spaces and _ . - : / to be kept as a tag"
            )
        if self.value < self.low or self.value > self.high:  # an interval from one row is NaN, and not refused
            raise ValueError(f"{self.name} {self.value} lies outside its interval [{self.low}, {self.high}]")
        if self.samples < 1:
            raise ValueError(f"{self.name} was measured on {self.samples} samples")

    def __str__(self) -> str:
        return f"{self.name} {self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"

    def entry(self) -> dict[str, Any]:
        """Return the metric as an entry of a report of `raysde evaluate`, which says beside it what was compared."""
        return {
            **{key: getattr(self, key) for key in ("name", "value", "low", "high", "samples", "method")},
            "best": choose_direction(self.name),
            "reference": self.reference,
            "seed": self.seed,
            "network": self.features or "",
        }

    def to_json(self) -> dict[str, Any]:
        """Return the metric as it is kept alone, in a tag of MLflow or a list of metrics; see :func:`parse_metric`."""
        return {"metric": self.name, **{key: getattr(self, key) for key in KEPT}}


KEPT = ("value", "low", "high", "samples", "seed", "features", "data", "overrides")


def parse_metric(content: Any, where: str) -> Metric:
    """Return the metric that :meth:`Metric.to_json` made JSON values of.

    Raises:
        ValueError: naming ``where`` and the field that is missing, unknown or out of range.
    """
    strange = sorted(set(content) - {"metric", *KEPT}) if isinstance(content, dict) else []
    if strange:
        raise ValueError(f"{where}: {strange[0]}: Unexpected keyword argument")
    try:
        return TypeAdapter(Metric).validate_python(content)
    except ValidationError as error:
        field, said = first_mistake(error)
        raise ValueError(f"{where}: {field + ': ' if field else ''}{said}") from None


@dataclass(frozen=True)
class Margin:
    """By how much one metric is better than another, with its confidence interval; negative if it is worse."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def choose_direction(metric: str, given: Better | None = None) -> Better:
    """Return which of two values of a metric is the better one, the lower or the higher.

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


def describe_mismatch(one: Metric, other: Metric) -> str | None:
    """Return what forbids to compare two metrics, None if nothing does.

    FID and its kin depend on the number of samples, the feature network and the data. A model that drew by its own
    settings is no match for one that was told others.
    """
    names = {"name": "metric", "samples": "number of samples", "features": "feature network", "data": "data"}
    names |= {"overrides": "choice of settings in place of the model's own"}
    for what, name in names.items():
        first, second = getattr(one, what), getattr(other, what)
        if first != second:
            return f"the {name} is {first} for the one and {second} for the other"
    return None


def compute_margin(one: Metric, other: Metric, better: Better) -> Margin:
    """Return by how much ``one`` is better than ``other``.

    The interval of a difference from the two intervals (Zou and Donner 2008, doi:10.1002/sim.3095, section 2), which
    need not be symmetric; for independent normal estimates it is the exact one. Estimates that share their data go up
    and down together, so that it is too wide for them rather than too narrow.

    Raises:
        ValueError: if the two cannot be compared.
    """
    if said := describe_mismatch(one, other):
        raise ValueError(f"{one.name} of two versions cannot be compared: {said}")
    first, second = (other, one) if better == "lower" else (one, other)
    value = first.value - second.value
    below = math.hypot(first.value - first.low, second.high - second.value)
    above = math.hypot(first.high - first.value, second.value - second.low)
    return Margin(value, value - below, value + above)
