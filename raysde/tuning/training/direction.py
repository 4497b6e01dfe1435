"""The better direction of a sweep's metric."""

from raysde.evaluation.metric import known_direction
from raysde.training.ranking import Ranking


def rank_by(metric: str) -> Ranking:
    """Return the ranking by a metric: higher is better if that is known of its name, else lower."""
    return Ranking(metric, "max" if known_direction(metric) == "higher" else "min")
