"""The shape check that samplers and likelihoods apply to a caller's score."""

from typing import Any

from raysde.io.shapes import of_shape, place_of
from raysde.sde import Score


def check_score_values(score: Any) -> Score:
    """Return ``score`` itself, or its method ``score``, with a check of its output shape.

    Raises:
        ValueError: at a call, if the result does not have the shape of x_t.
    """
    call, giver = getattr(score, "score", score), f"score {place_of(score)}"
    return lambda x_t, t: of_shape(call(x_t, t), x_t.shape, giver)
