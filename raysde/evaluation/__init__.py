"""Evaluation of a model's images: feature networks, mergeable statistics, metrics with confidence intervals."""
