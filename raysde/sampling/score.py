"""The score that a caller gives, as samplers and likelihoods ask it."""

from typing import Any

from raysde.io.shapes import of_shape, place_of
from raysde.sde import Score


def check_score_values(score: Any) -> Score:
    """Return ``score`` itself, or its method of that name, with a look at the shape of its values.

    Its calls raise ValueError if the values have another shape than x.
    """
    call, giver = getattr(score, "score", score), f"score {place_of(score)}"
    return lambda x_t, t: of_shape(call(x_t, t), x_t.shape, giver)
