"""Conditional scores and their guidance: classifier-free guidance, negative prompts and autoguidance.

A guided score is weak + scale (strong - weak) at the noise levels of an interval. At other noise levels, and at scale
1, it is the strong score, which takes one network evaluation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from raysde.conditioning.conditioner import Conditioner, Encoded
from raysde.models.sampling_defaults import Interval, check_interval, check_scale
from raysde.models.score import ScoreModel
from raysde.sde import SDE

EncodeConditions = Callable[[Conditioner], Encoded]
"""A function that encodes the conditions of a batch by a model's own conditioner."""


@dataclass(frozen=True)
class Conditioned:
    """The score of a model under one encoded condition for each image, as a callable ``score(x_t, t)``.

    ``score`` takes x_t [B, C, H, W] and t [B] and returns the shape of x_t.
    """

    model: ScoreModel
    encoded: Encoded

    def score(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.model.score(x_t, t, self.encoded)


@dataclass(frozen=True)
class Guided:
    """A classifier-free guided score: null + scale (conditional - null).

    Ho and Salimans 2022, eq. 6 with scale = 1 + w: scale 1 is the conditional score, 0 the unconditional one. Both
    scores come from one network call, on a batch that repeats the guided rows. ``null`` holds a null condition or a
    negative prompt for each image.

    ``score`` takes x_t [B, C, H, W] and t [B] and returns the shape of x_t.

    Attributes:
        encoded, null: encoded conditions of the images, and those to guide away from.
        scale: guidance scale; 1 is the conditional score.
        interval: range (low, high) of sigma / alpha in which guidance applies; None for all noise levels.
    """

    model: ScoreModel
    encoded: Encoded
    null: Encoded
    scale: float
    interval: Interval | None = None

    is_guided: ClassVar[bool] = True

    def score(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.scores(x_t, t)[1]

    def scores(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the conditional and the guided score of x_t [B, C, H, W] at times t [B], each of the shape of x_t."""
        rows = guided_rows(self.model.sde, t, self.scale, self.interval)
        if len(rows) == 0:
            plain = self.model.score(x_t, t, self.encoded)
            return plain, plain
        both = self.encoded.join_rows(self.null.rows(rows))
        scores = self.model.score(torch.cat([x_t, x_t[rows]]), torch.cat([t, t[rows]]), both)
        strong = scores[: len(x_t)]
        return strong, extrapolate_rows(strong, scores[len(x_t) :], rows, self.scale)


@dataclass(frozen=True)
class Autoguided:
    """An autoguided score: weak + scale (strong - weak), with ``weak`` from a smaller or less trained model.

    Karras et al. 2024 (arXiv 2406.02507) extrapolate denoised images, which is the same because x0 = (x + sigma^2
    score) / alpha is linear in the score. Both models have the same SDE.

    ``score`` takes x_t [B, C, H, W] and t [B] and returns the shape of x_t.

    Attributes:
        strong, weak: the model and the model to guide away from, each under its conditions.
        scale: guidance scale; 1 is the score of ``strong``.
        interval: range (low, high) of sigma / alpha in which guidance applies; None for all noise levels.
    """

    strong: Conditioned
    weak: Conditioned
    scale: float
    interval: Interval | None = None

    is_guided: ClassVar[bool] = True

    def score(self, x_t: Tensor, t: Tensor) -> Tensor:
        rows = guided_rows(self.strong.model.sde, t, self.scale, self.interval)
        strong = self.strong.score(x_t, t)
        if len(rows) == 0:
            return strong
        weak = self.weak.model.score(x_t[rows], t[rows], self.weak.encoded.rows(rows))
        return extrapolate_rows(strong, weak, rows, self.scale)


@dataclass(frozen=True)
class TwiceGuided:
    """A classifier-free guided and autoguided score: guided + (scale - 1) (conditional - weak).

    Each guidance adds the term that it adds alone: classifier-free guidance keeps images to their conditions,
    autoguidance moves them closer to the data. At scale 1 the score is that of ``guided``.

    ``score`` takes x_t [B, C, H, W] and t [B] and returns the shape of x_t.

    Attributes:
        scale: scale of autoguidance; 1 is the score of ``guided``.
        interval: range (low, high) of sigma / alpha in which guidance applies; None for all noise levels.
    """

    guided: Guided
    weak: Conditioned
    scale: float
    interval: Interval | None = None

    is_guided: ClassVar[bool] = True

    def score(self, x_t: Tensor, t: Tensor) -> Tensor:
        strong, guided = self.guided.scores(x_t, t)
        rows = guided_rows(self.guided.model.sde, t, self.scale, self.interval)
        if len(rows) == 0:
            return guided
        weak = self.weak.model.score(x_t[rows], t[rows], self.weak.encoded.rows(rows))
        return guided.index_add(0, rows, strong[rows] - weak, alpha=self.scale - 1.0)


def guided_rows(sde: SDE, t: Tensor, scale: float, interval: Interval | None) -> Tensor:
    """Return the indices [N] of the times t [B] with sigma / alpha in ``interval``, all for None; none at scale 1."""
    if scale == 1.0:
        return torch.arange(0, device=t.device)
    if interval is None:
        return torch.arange(len(t), device=t.device)
    noise = torch.exp(-0.5 * sde.log_snr(t))
    return ((noise > interval[0]) & (noise <= interval[1])).nonzero()[:, 0]


def extrapolate_rows(strong: Tensor, weak: Tensor, rows: Tensor, scale: float) -> Tensor:
    """Return ``strong`` [B, ...] with its N ``rows`` replaced by weak + scale (strong - weak), ``weak`` [N, ...]."""
    guided = weak + scale * (strong[rows] - weak)
    return guided if len(rows) == len(strong) else strong.index_copy(0, rows, guided)


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """Guidance settings for a batch of images.

    Attributes:
        scale: guidance scale; classifier-free, or of autoguidance if there is a ``guide`` and ``autoguidance`` is
            None. 1 disables it.
        interval: noise levels sigma / alpha (low, high] at which guidance applies; None for all.
        negatives: a negative prompt for each image; None for the empty prompt.
        guide: a weaker model for autoguidance.
        autoguidance: scale of autoguidance in addition to classifier-free guidance by ``scale``.

    Raises:
        ValueError: if the interval does not rise, a scale is negative, ``autoguidance`` has no guide, or negative
            prompts and a guide are given without ``autoguidance``.
    """

    scale: float = 1.0
    interval: Interval | None = None
    negatives: Sequence[str] | None = None
    guide: ScoreModel | None = None
    autoguidance: float | None = None

    def __post_init__(self) -> None:
        check_interval(self.interval)
        check_scale(self.scale)
        check_scale(self.autoguidance, "autoguidance")
        if self.autoguidance is not None and self.guide is None:
            raise ValueError(f"autoguidance={self.autoguidance} was given without a guide model; give autoguide too")
        if self.guide is not None and self.autoguidance is None and self.negatives is not None:
            raise ValueError(
                "negative and autoguide exclude each other; give one of them, or autoguidance to apply both"
            )

    def rows(self, rows: slice) -> "Guidance":
        """Return the guidance of a slice of the images."""
        return replace(self, negatives=None if self.negatives is None else self.negatives[rows])

    def score(self, model: ScoreModel, encode: EncodeConditions, count: int) -> "Led":
        """Return the guided score of ``count`` images, whose conditions ``encode`` encodes, in evaluation mode.

        Raises:
            ValueError: if a scale other than 1 is given for an unconditional model, or a negative prompt for a model
                without a text encoder.
        """
        own = model.eval().conditioner
        plain = Conditioned(model, encode(own))
        alone = self.guide is not None and (self.autoguidance is None or self.scale == 1.0)
        if alone or (self.guide is None and self.scale == 1.0):
            scale = self.scale if self.autoguidance is None else self.autoguidance
            return plain if scale == 1.0 else Autoguided(plain, self.weak(encode), scale, self.interval)
        if not model.is_conditional:
            raise ValueError(f"guidance={self.scale} was given, but the model is unconditional; leave it at 1")
        null = own.encode(self.negatives, None, count)
        if plain.encoded.image is not None:
            null = replace(null, image=torch.zeros_like(plain.encoded.image))
        guided = Guided(model, plain.encoded, null, self.scale, self.interval)
        if self.autoguidance is None:
            return guided
        return TwiceGuided(guided, self.weak(encode), self.autoguidance, self.interval)

    def weak(self, encode: EncodeConditions) -> Conditioned:
        """Return the guide's score under the same conditions, or without conditions if it is unconditional."""
        assert self.guide is not None
        its = self.guide.eval()
        return Conditioned(its, encode(its.conditioner) if its.is_conditional else Encoded())


Led = Conditioned | Guided | Autoguided | TwiceGuided
"""A score under conditions, guided or not."""
