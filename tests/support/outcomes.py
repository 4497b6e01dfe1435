"""Made-up measurements of sampler settings."""

import torch
from scipy.linalg import hadamard

from raysde.evaluation.metric import Metric
from raysde.evaluation.metrics.intervals import Z
from raysde.evaluation.metrics.jackknife import Influence
from raysde.tuning.sampler.space import Candidate
from raysde.tuning.sampler.successive_halving import (
    CandidateOutcome,
)


def made_up_outcome(value, cost, half=0.0, metric="kid", samples=64, noise=None):
    """Return an outcome with interval ``value`` +- ``half`` and influences of noise number ``noise``; different
    noises vary independently."""
    figure = Metric(metric, value, value - half, value + half, samples, 0)
    unit = torch.from_numpy(hadamard(64)[1 + (int(cost) if noise is None else noise) % 63]).double()
    influence = Influence({"drawn": unit / unit.std() * 8.0 * half / Z}, {"drawn": 64})
    return CandidateOutcome(Candidate(None, {"steps": int(cost)}, cost), figure, influence)


def outcome_of(candidate, value, samples, half=0.0):
    figure = Metric("kid", value, value - half, value + half, samples, 0)
    return CandidateOutcome(candidate, figure, made_up_outcome(value, candidate.evaluations, half).influence)
