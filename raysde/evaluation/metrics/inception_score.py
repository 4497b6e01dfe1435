"""The inception score: exp of the mean divergence of p(class | image) from p(class) (Salimans et al. 2016)."""

import torch
from torch import Tensor

SPLITS = 10


def inception_score(logits: Tensor, generator: torch.Generator, splits: int = SPLITS) -> tuple[float, Tensor]:
    """As torchmetrics: the mean of the score over parts of the shuffled images; and their influences on it, [N].

    By the infinitesimal jackknife an image's influence on the logarithm of the score is its own divergence, because the
    mean of the classes is where the mean divergence is least. That the score grows with the number of images of a part
    is a bias, which the influences do not hold.

    Args:
        logits: [N, K], N at least ``splits``.
    """
    order = torch.randperm(len(logits), generator=generator)
    log_p = logits[order].double().log_softmax(dim=1)
    parts = [kl_divergences(part) for part in log_p.chunk(splits)]
    scores = torch.stack([part.mean().exp() for part in parts])
    # a part's mean has len(part) images, the whole mean N of them
    weights = [len(logits) / (len(parts) * len(part)) for part in parts]
    own = [w * s * (part - part.mean()) for w, s, part in zip(weights, scores, parts, strict=True)]
    return scores.mean().item(), torch.cat(own)[order.argsort()]


def kl_divergences(log_p: Tensor) -> Tensor:
    """KL(p(class | image) || p(class)) of each image, [N], p(class) being the mean over these images."""
    p = log_p.exp()
    return (p * (log_p - p.mean(dim=0).log())).sum(dim=1)
