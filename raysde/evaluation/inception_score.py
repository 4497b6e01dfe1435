"""The inception score: exp of the mean divergence of p(class | image) from p(class) (Salimans et al. 2016)."""

import math

import torch
from torch import Tensor

SPLITS = 10


def inception_score(logits: Tensor, generator: torch.Generator, splits: int = SPLITS) -> tuple[float, float]:
    """As torchmetrics: the mean of the score over parts of the shuffled images; and its standard error.

    The error is that of the infinitesimal jackknife: an image's influence on the logarithm of the score is its own
    divergence, because the mean of the classes is where the mean divergence is least. That the score grows with the
    number of images of a part is a bias, which the error does not hold.

    Args:
        logits: [N, K], N at least ``splits``.
    """
    log_p = logits[torch.randperm(len(logits), generator=generator)].double().log_softmax(dim=1)
    parts = [divergences(part) for part in log_p.chunk(splits)]
    scores = torch.stack([part.mean().exp() for part in parts])
    variance = sum((score**2 * part.var() / len(part)).item() for score, part in zip(scores, parts, strict=True))
    return scores.mean().item(), math.sqrt(variance) / len(parts)


def divergences(log_p: Tensor) -> Tensor:
    """KL(p(class | image) || p(class)) of each image, [N], p(class) being the mean over these images."""
    p = log_p.exp()
    return (p * (log_p - p.mean(dim=0).log())).sum(dim=1)
