"""Scores of a model under a condition, with classifier-free guidance."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from raysde.conditioning import Encoded
from raysde.score import ScoreModel


@dataclass(frozen=True)
class Conditioned:
    """score(x_t, t) under one encoded condition for each image."""

    model: ScoreModel
    encoded: Encoded

    def score(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.model.score(x_t, t, self.encoded)


@dataclass(frozen=True)
class Guided:
    """null + scale (conditional - null), both scores from one call on a doubled batch.

    Ho and Salimans 2022, eq. 6 with scale = 1 + w: scale 1 is the conditional score, 0 the unconditional one.
    ``null`` holds a null condition for each image, of the same token length.
    """

    model: ScoreModel
    encoded: Encoded
    null: Encoded
    scale: float

    is_guided: ClassVar[bool] = True

    def score(self, x_t: Tensor, t: Tensor) -> Tensor:
        both = Encoded(
            _joined(self.encoded.pooled, self.null.pooled),
            _joined(self.encoded.context, self.null.context),
            _joined(self.encoded.mask, self.null.mask),
        )
        conditional, null = self.model.score(torch.cat([x_t, x_t]), torch.cat([t, t]), both).chunk(2)
        return null + self.scale * (conditional - null)


def _joined(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return None
    return torch.cat([first, second])
