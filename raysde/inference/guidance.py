"""Scores of a model under a condition, and guidance: away from another condition, or from a weaker model.

Guided scores are weak + scale (strong - weak), at some noise levels or at all of them. Elsewhere, and at scale 1, they
are the strong score alone, from one evaluation.
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
"""What a model is told of a batch, by its own conditioner."""


@dataclass(frozen=True)
class Conditioned:
    """score(x_t, t) under one encoded condition for each image."""

    model: ScoreModel
    encoded: Encoded

    def score(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.model.score(x_t, t, self.encoded)


@dataclass(frozen=True)
class Guided:
    """null + scale (conditional - null), both scores from one call on a batch that is doubled where it is guided.

    Ho and Salimans 2022, eq. 6 with scale = 1 + w: scale 1 is the conditional score, 0 the unconditional one.
    ``null`` holds a null condition for each image, or a negative prompt.
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
        """The conditional score, and the guided one."""
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
    """weak + scale (strong - weak) with a smaller or younger model of the same SDE (Karras et al. 2024, arXiv
    2406.02507); in scores, as x0 = (x + sigma^2 score) / alpha makes it the same in denoised images."""

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
    """guided + (scale - 1) (conditional - weak): away from another condition and from a weaker model as well.

    Each takes what it would alone, so classes are kept to, by the one, in images that are closer to the data, by the
    other. At scale 1 it is ``guided``.
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
    """The numbers of the rows of t [B] that are guided."""
    if scale == 1.0:
        return torch.arange(0, device=t.device)
    if interval is None:
        return torch.arange(len(t), device=t.device)
    noise = torch.exp(-0.5 * sde.log_snr(t))
    return ((noise > interval[0]) & (noise <= interval[1])).nonzero()[:, 0]


def extrapolate_rows(strong: Tensor, weak: Tensor, rows: Tensor, scale: float) -> Tensor:
    """``strong`` [B, ...] with its ``rows`` led away from ``weak`` [N, ...]."""
    guided = weak + scale * (strong[rows] - weak)
    return guided if len(rows) == len(strong) else strong.index_copy(0, rows, guided)


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """How the images of a batch are led.

    Attributes:
        scale: by the conditions, or by ``guide`` if there is no ``autoguidance``; 1 for no such guidance.
        interval: sigma / alpha where there is guidance, None for everywhere.
        negatives: for each image what it is led away from, None for the empty prompt.
        guide: a weaker model that it is led away from instead, or as well.
        autoguidance: scale by ``guide``, beside that by the conditions.

    Raises:
        ValueError: if the interval does not rise, a scale is negative, ``autoguidance`` has no guide, or there is none
            and negative prompts as well as a guide.
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
            raise ValueError(f"autoguidance={self.autoguidance} was given, and no autoguide to lead away from")
        if self.guide is not None and self.autoguidance is None and self.negatives is not None:
            raise ValueError(
                "negative and autoguide both say what to lead away from: give one of them, or autoguidance for both"
            )

    def rows(self, rows: slice) -> "Guidance":
        """That of some of the images."""
        return replace(self, negatives=None if self.negatives is None else self.negatives[rows])

    def score(self, model: ScoreModel, encode: EncodeConditions, count: int) -> "Led":
        """The score of ``count`` images whose conditions ``encode`` gives, in evaluation mode.

        Raises:
            ValueError: if the model takes no condition, or no prompt where there are negative ones.
        """
        own = model.eval().conditioner
        plain = Conditioned(model, encode(own))
        alone = self.guide is not None and (self.autoguidance is None or self.scale == 1.0)
        if alone or (self.guide is None and self.scale == 1.0):
            scale = self.scale if self.autoguidance is None else self.autoguidance
            return plain if scale == 1.0 else Autoguided(plain, self.weak(encode), scale, self.interval)
        if own.width is None:
            raise ValueError(f"guidance={self.scale} was given, but the model is unconditional")
        guided = Guided(model, plain.encoded, own.encode(self.negatives, None, count), self.scale, self.interval)
        if self.autoguidance is None:
            return guided
        return TwiceGuided(guided, self.weak(encode), self.autoguidance, self.interval)

    def weak(self, encode: EncodeConditions) -> Conditioned:
        """The guide, told the same."""
        assert self.guide is not None
        its = self.guide.eval().conditioner
        return Conditioned(self.guide, Encoded() if its.width is None else encode(its))


Led = Conditioned | Guided | Autoguided | TwiceGuided
"""Scores under conditions, however they are led."""
