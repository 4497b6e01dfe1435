"""Folders on each machine for results that can be computed again."""

EVALUATION = "~/raysde/evaluation"
"""Judges and statistics of real images, of `raysde evaluate` and of the metrics that runs measure."""
