"""A question to :func:`raysde.evaluation.evaluate.evaluate`, with its checks, and the answer."""

from dataclasses import dataclass, field
from typing import Any, get_args

from raysde.data.dataset.manifest import Split
from raysde.evaluation import compute, held_out, memorisation, pretrained
from raysde.evaluation.features.networks import CLIP, DINOV2
from raysde.evaluation.metric import Metric
from raysde.evaluation.metrics import frechet
from raysde.evaluation.metrics.inception_score import SPLITS
from raysde.io.near import did_you_mean
from raysde.sampling.likelihood import TOLERANCE

FEATURES = ("fid", *compute.FEATURE_METRICS)
"""Metrics computed from the features of a network."""
METRICS = (*FEATURES, "accuracy", *pretrained.METRICS, memorisation.NAME, *held_out.METRICS)
LEAST = {**dict.fromkeys((*FEATURES, *pretrained.METRICS), 4), "is": 2 * SPLITS}
"""Smallest number of images that a metric can be computed from."""


@dataclass(frozen=True)
class Question:
    """The metrics to measure and their settings.

    Attributes:
        metrics: names from METRICS.
        samples: number of images to draw.
        seed: seed of the images and of every random choice.
        split: split that the real images are taken from.
        reference: number of real images, chosen at random; None for all of the split.
        rows: number of held-out rows for the metrics of HeldOut.
        t: time in (0, 1] to which held-out rows are noised for the denoised metrics.
        allow_few: compute FID even from fewer than 2,048 images.
        settings: keyword arguments of the model's ``sample``: guidance, solver, steps, batch_size and so on. Settings
            that are not given default to the model's own, then to the defaults of `raysde sample`.
        lpips: weights of LPIPS' network: alexnet for the published ones, or a file.
        rtol, atol: tolerances of the ODE solver of bpd.
        clip, dinov2: folders with the weights of CLIP and of DINOv2, for the metrics that need them.

    Raises:
        ValueError: naming the setting that is wrong.
    """

    metrics: tuple[str, ...]
    samples: int
    seed: int = 0
    split: Split = "train"
    reference: int | None = None
    rows: int = 64
    t: float = 0.5
    allow_few: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    lpips: str = "alexnet"
    rtol: float = TOLERANCE
    atol: float = TOLERANCE
    clip: str | None = None
    dinov2: str | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in self.metrics if name not in METRICS]
        if unknown or not self.metrics:
            near = did_you_mean(unknown[0], METRICS) if unknown else ""
            raise ValueError(f"metrics must be of {', '.join(METRICS)}, got {', '.join(unknown) or 'none'}{near}")
        if self.split not in get_args(Split):
            raise ValueError(f"split must be train or validation, got {self.split!r}")
        for name in ("rtol", "atol"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"{name} of bpd must be positive, got {getattr(self, name)}")
        pretrained.check_weights_given(self.metrics, self.folders)
        if self.rows < 2:
            raise ValueError(f"rows must be at least 2, got {self.rows}")
        self.enough("drawn images", self.samples)
        if self.reference is not None:
            self.enough("real images", self.reference)

    def enough(self, what: str, count: int) -> None:
        """Check that ``count`` images, called ``what`` in the error, are enough for every metric.

        Raises:
            ValueError: naming the metric that needs more.
        """
        for name in self.metrics:
            if count < LEAST.get(name, 1):
                raise ValueError(
                    f"{name}: {count} {what} are too few, it needs at least {LEAST.get(name, 1)}; "
                    f"take more, or leave {name} out"
                )
        for name, called in (("fid", "FID"), ("fd_dinov2", "fd_dinov2")):
            if name in self.metrics:
                frechet.check_count(count, what, self.allow_few, called)

    @property
    def folders(self) -> dict[str, str | None]:
        """The folder of each pretrained network's weights."""
        return {CLIP: self.clip, DINOV2: self.dinov2}

    @property
    def compares(self) -> bool:
        """True if a metric compares drawn and real images in the features of the feature network."""
        return bool(set(self.metrics) & set(FEATURES))

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of the measurements of which those of the first images suffice."""
        return ("mirrored",) if self.compares else ("mirrored", "features", "logits")

    @property
    def memorises(self) -> bool:
        """True if the nearest training images of drawn images are wanted."""
        return memorisation.NAME in self.metrics

    @property
    def perceives(self) -> bool:
        """True if a metric needs LPIPS."""
        return any(name.endswith("lpips") for name in self.metrics)


@dataclass(frozen=True)
class Answer:
    """Metrics, and a description of the model, data and settings they belong to.

    Attributes:
        figures: the metrics, each with its confidence interval.
        about: JSON values that the report stores beside them.
        pairs: the drawn images nearest to training images, if they are wanted.
    """

    figures: list[Metric]
    about: dict[str, Any]
    pairs: memorisation.Pairs | None = None

    def dump(self) -> dict[str, Any]:
        """Return the answer as JSON values."""
        return {**self.about, "figures": [figure.entry() for figure in self.figures]}
