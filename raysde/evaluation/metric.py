"""A metric of a model with its confidence interval, and the margin between two of them."""

import math
import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, SkipValidation, TypeAdapter, ValidationError

from raysde.evaluation.metrics.jackknife import Influence
from raysde.io.invalid import first_mistake

Better = Literal["lower", "higher"]
METRIC = re.compile(r"(?=.{1,200}$)\w[\w.: -]*(/\w[\w.: -]*)*", re.ASCII)
"""Metric names that MLflow accepts in tags; slashes separate the parts of a name."""
VALIDATION = re.compile(r"val/(loss|denoising)(_snr_-?\d+_to_-?\d+)?")
"""Losses on held-out rows, of which lower is better."""
PERCEPTUAL = ("denoised_lpips", "inpainted_lpips", "denoised_mse", "inpainted_mse")
DISTANCES = ("fid", "kid", "fd_dinov2", "cmmd", "memorised")
LOWER = (*DISTANCES, "lpips", *PERCEPTUAL, "bpd", "bits_per_dim", "nll", "mse", "denoising_error")
PAIRED = ("denoised_psnr", "denoised_ssim", "inpainted_psnr", "inpainted_ssim")
TEXTUAL = ("accuracy", "prompt_accuracy", "clip_score")
HIGHER = ("inception_score", "is", "ssim", "psnr", *PAIRED, "precision", "recall", *TEXTUAL)


@dataclass(frozen=True)
class Metric:
    """A measure of a model's quality with its 95% confidence interval.

    Attributes:
        name: name of the metric, such as fid; "metric" in JSON.
        value, low, high: the estimate and its confidence interval.
        samples, seed: number of drawn images or held-out rows, and the seed of these and of every random choice.
        features: hash of the network that compared the images, if one did.
        data: fingerprint, split, number and size of the real images, if they are known.
        overrides: sampler settings used in place of the model's own; None if the model's own were used.
        method: description of how the value and the interval were computed.
        reference: number of real images that the metric is measured against, 0 for none.
        influence: influence of each image on a metric of drawn images; never written to JSON.

    Raises:
        ValueError: if the name is not valid, the value lies outside its interval, or there are no samples.
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
        if self.value < self.low or self.value > self.high:  # the NaN interval of a single row passes
            raise ValueError(f"{self.name} {self.value} lies outside its interval [{self.low}, {self.high}]")
        if self.samples < 1:
            raise ValueError(f"{self.name} was measured on {self.samples} samples")

    def __str__(self) -> str:
        return f"{self.name} {self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"

    def entry(self) -> dict[str, Any]:
        """Return the metric as an entry of a report of `raysde evaluate`, which describes the real images itself."""
        return {
            **{key: getattr(self, key) for key in ("name", "value", "low", "high", "samples", "method")},
            "best": choose_direction(self.name),
            "reference": self.reference,
            "seed": self.seed,
            "network": self.features or "",
        }

    def to_json(self) -> dict[str, Any]:
        """Return the metric as JSON values that stand alone, for an MLflow tag or a list; see :func:`parse_metric`."""
        return {"metric": self.name, **{key: getattr(self, key) for key in KEPT}}


KEPT = ("value", "low", "high", "samples", "seed", "features", "data", "overrides")


def parse_metric(content: Any, where: str) -> Metric:
    """Return the metric from the JSON values of :meth:`Metric.to_json`.

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
    """The improvement of one metric over another, with its 95% confidence interval; negative if it is worse.

    Attributes:
        value: the improvement, in units of the metric.
        low, high: ends of its 95% confidence interval.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def known_direction(metric: str) -> Better | None:
    """Return the better direction of a metric by its name, None if the name is not known.

    In training, ``val/`` precedes the names; the losses of validation may be of one bin of log-SNR.
    """
    name = metric.removeprefix("val/")
    if name in LOWER or VALIDATION.fullmatch(metric):
        return "lower"
    return "higher" if name in HIGHER else None


def choose_direction(metric: str, given: Better | None = None) -> Better:
    """Return "lower" or "higher", the better direction of a metric.

    Args:
        given: direction from the user, for a metric with an unknown name.

    Raises:
        ValueError: if neither the name nor the user says, or they contradict each other.
    """
    known = known_direction(metric)
    if known is None and given is None:
        raise ValueError(f"{metric}: it is not known if lower or higher is better; give --better")
    if known and given and known != given:
        raise ValueError(f"--better {given}: a {known} {metric} is better")
    return known or given  # type: ignore[return-value]


def describe_mismatch(one: Metric, other: Metric) -> str | None:
    """Return the reason why two metrics cannot be compared, or None if they can.

    FID and similar metrics depend on the number of samples, the feature network, the data and the sampler settings.
    """
    names = {"name": "metric", "samples": "number of samples", "features": "feature network", "data": "data"}
    names |= {"overrides": "sampler settings in place of the model's own"}
    for what, name in names.items():
        first, second = getattr(one, what), getattr(other, what)
        if first != second:
            return f"the {name} is {first} for the one and {second} for the other"
    return None


def compute_margin(one: Metric, other: Metric, better: Better) -> Margin:
    """Return the improvement of ``one`` over ``other``.

    The interval of the difference comes from the two intervals (Zou and Donner 2008, doi:10.1002/sim.3095, section 2)
    and need not be symmetric. It is exact for independent normal estimates. For estimates that share their data, which
    rise and fall together, it is too wide rather than too narrow.

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
