"""Metrics of drawn images, computed from their measurements."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from raysde import rng
from raysde.evaluation.features.classifier import Judge
from raysde.evaluation.metric import Metric
from raysde.evaluation.metrics import frechet
from raysde.evaluation.metrics.cmmd import SCALE, SIGMA, clip_discrepancy
from raysde.evaluation.metrics.inception_score import SPLITS, inception_score
from raysde.evaluation.metrics.intervals import mean_and_error, normal_interval, wilson_interval
from raysde.evaluation.metrics.jackknife import Influence
from raysde.evaluation.metrics.kernel import kernel_discrepancy
from raysde.evaluation.metrics.precision_recall import NEIGHBOURS, find_covered
from raysde.evaluation.real import KEPT, Reference


@dataclass(frozen=True)
class Measured:
    """Measurements from which metrics are computed.

    Attributes:
        features: features of the drawn images, [N, D].
        logits: logits of the drawn images, [N, K]; None if the network has none.
        reference: moments and features of the real images.
        seed: seed of the images and of random choices.
        network: hash of the feature network.
    """

    features: Tensor
    logits: Tensor | None
    reference: Reference
    seed: int
    network: str

    def generator(self, stream: int) -> torch.Generator:
        """Return the generator of random stream number ``stream``."""
        return rng.generator(self.seed, rng.EVALUATION, stream)


def fid(found: Measured, *, allow_few: bool = False) -> Metric:
    """Compute the Fréchet inception distance.

    Raises:
        ValueError: if there are fewer than 2,048 images and ``allow_few`` is False.
    """
    drawn, real = frechet.Moments.of(found.features), found.reference.moments
    frechet.check_count(drawn.count, "drawn images", allow_few)
    frechet.check_count(real.count, "real images", allow_few)
    value, interval, influence = _compare_moments(found.reference, Reference(drawn, found.features))
    method = "as torchmetrics; interval by the infinitesimal jackknife (Rippl et al. 2016), without the bias in 1/N"
    return _make_metric(found, "fid", value, interval, method=method, influence=influence, reference=real.count)


def _compare_moments(real: Reference, drawn: Reference) -> tuple[float, tuple[float, float], Influence]:
    """Return the Fréchet distance, its interval and its influences."""
    distance = frechet.frechet_distance(real.moments, drawn.moments)
    influence = frechet.frechet_influences(distance, real.moments, drawn.moments, real.features, drawn.features)
    low, high = normal_interval(distance.value, influence.error)
    low = min(distance.value, max(0.0, low))  # rounding may leave the distance of equal images below 0
    return distance.value, (low, high), influence


def fd_dinov2(real: Reference, drawn: Reference, seed: int, network: str, *, allow_few: bool = False) -> Metric:
    """Compute the Fréchet distance of DINOv2 features (Stein et al. 2023, arXiv 2306.04675).

    Args:
        network: hash of the network that measured the features.

    Raises:
        ValueError: if there are fewer than 2,048 images and ``allow_few`` is False.
    """
    frechet.check_count(drawn.moments.count, "drawn images", allow_few, "fd_dinov2")
    frechet.check_count(real.moments.count, "real images", allow_few, "fd_dinov2")
    value, interval, influence = _compare_moments(real, drawn)
    method = (
        "Fréchet distance of DINOv2's class tokens (Stein et al. 2023); interval by the infinitesimal jackknife over "
        f"the first {len(drawn.features)} drawn and {len(real.features)} real images, without the bias in 1/N"
    )
    about: dict[str, Any] = {"method": method, "influence": influence, "reference": real.moments.count}
    return Metric("fd_dinov2", value, *interval, drawn.moments.count, seed, network, **about)


def cmmd(real: Tensor, drawn: Tensor, seed: int, network: str) -> Metric:
    """Compute CMMD (Jayasumana et al. 2024) from CLIP's embeddings of real images [M, D] and drawn images [N, D].

    Args:
        network: hash of the network that measured the embeddings.
    """
    value, influence = clip_discrepancy(real, drawn)
    method = (
        f"unbiased, sigma {SIGMA:g}, times {SCALE:g} (Jayasumana et al. 2024); interval by the jackknife over images"
    )
    interval = normal_interval(value, influence.error)
    about: dict[str, Any] = {"method": method, "influence": influence, "reference": len(real)}
    return Metric("cmmd", value, *interval, len(drawn), seed, network, **about)


def clip_score(scores: Tensor, seed: int, network: str) -> Metric:
    """Compute CLIPScore as torchmetrics: max(0, mean of 100 cos(image, caption)).

    Args:
        scores: 100 cos(image, caption) of each drawn image, [N].
        network: hash of CLIP.
    """
    mean, error = mean_and_error(scores)
    value, low, high = (max(0.0, each) for each in (mean, *normal_interval(mean, error)))
    influence = Influence({"drawn": scores.double()}, {"drawn": len(scores)})
    method = "as torchmetrics, 100 cos(image, caption); normal interval over images"
    return Metric("clip_score", value, low, high, len(scores), seed, network, method=method, influence=influence)


def kid(found: Measured) -> Metric:
    """Compute the kernel inception distance."""
    real, drawn = found.reference.features, found.features[:KEPT]
    given = kernel_discrepancy(real, drawn, found.generator(2))
    method = f"as torchmetrics, 100 subsets of {given.size}; interval by the jackknife over images, and over subsets"
    interval = normal_interval(given.value, given.influence.error)
    about = {"method": method, "influence": given.influence, "reference": len(real)}
    return _make_metric(found, "kid", given.value, interval, samples=len(drawn), **about)


def compute_inception_score(found: Measured) -> Metric:
    """Compute the inception score; the feature network must give logits."""
    assert found.logits is not None
    value, own = inception_score(found.logits, found.generator(3))
    influence = Influence({"drawn": own}, {"drawn": len(own)})
    method = f"as torchmetrics, {SPLITS} parts; interval by the infinitesimal jackknife"
    return _make_metric(found, "is", value, normal_interval(value, influence.error), method=method, influence=influence)


def precision(found: Measured) -> Metric:
    """Compute precision: the share of drawn images that lie among real ones.

    Raises:
        ValueError: if there are too few features for their neighbours.
    """
    drawn, real = _equal_counts(found)
    return _make_proportion(found, "precision", find_covered(real, drawn), "drawn", len(real))


def recall(found: Measured) -> Metric:
    """Compute recall: the share of real images that lie among drawn ones.

    Raises:
        ValueError: if there are too few features for their neighbours.
    """
    drawn, real = _equal_counts(found)
    return _make_proportion(found, "recall", find_covered(drawn, real), "real", len(real))


FEATURE_METRICS = {"kid": kid, "is": compute_inception_score, "precision": precision, "recall": recall}


def _equal_counts(found: Measured) -> tuple[Tensor, Tensor]:
    """Return equally many drawn and real features, [N, D] each: the balls around them shrink with their number."""
    count = min(len(found.features), len(found.reference.features))
    return found.features[:count], found.reference.features[:count]


def _make_proportion(found: Measured, name: str, hits: Tensor, of: str, reference: int) -> Metric:
    count = len(hits)
    method = f"k = {NEIGHBOURS} (Kynkäänniemi et al. 2019) on {count} of each; Wilson interval given the neighbourhoods"
    share, influence = int(hits.sum()), Influence({of: hits.double()}, {of: count})
    interval = wilson_interval(share, count)
    about = {"method": method, "influence": influence, "reference": reference}
    return _make_metric(found, name, share / count, interval, samples=count, **about)


def _make_metric(
    found: Measured, name: str, value: float, interval: tuple[float, float], *, samples: int | None = None, **about: Any
) -> Metric:
    count = len(found.features) if samples is None else samples
    return Metric(name, value, *interval, count, found.seed, found.network, **about)


def accuracy(read: Tensor, asked: Tensor, judge: Judge, seed: int) -> Metric:
    """Compute the share of drawn images whose class ``read`` [N] by the judge equals the ``asked`` class [N]."""
    right = read == asked
    hits, count = int(right.sum()), len(read)
    influence = Influence({"drawn": right.double()}, {"drawn": count})
    low, high = wilson_interval(judge.right, judge.asked)
    method = (
        f"a classifier of real images, right on {judge.right / judge.asked:.4f} [{low:.4f}, {high:.4f}] of "
        f"{judge.asked} held-out real ones; Wilson interval"
    )
    interval = wilson_interval(hits, count)
    return Metric("accuracy", hits / count, *interval, count, seed, judge.hash, method=method, influence=influence)
