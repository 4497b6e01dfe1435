"""The inception score: exp of the mean divergence of p(class | image) from p(class) (Salimans et al. 2016)."""

import torch
from torch import Tensor

SPLITS = 10


def inception_score(logits: Tensor, generator: torch.Generator, splits: int = SPLITS) -> tuple[float, Tensor]:
    """Compute the score as torchmetrics does, the mean over parts of the shuffled images, and its influences [N].

    By the infinitesimal jackknife an image's influence on the logarithm of the score is its own divergence, because the
    mean of the classes is where the mean divergence is least. The score also grows with the number of images in a part;
    the influences do not cover this bias.

    Args:
        logits: [N, K], N at least ``splits``.
    """
    order = torch.randperm(len(logits), generator=generator)
    log_p = logits[order].double().log_softmax(dim=1)
    parts = [kl_divergences(part) for part in log_p.chunk(splits)]
    scores = torch.stack([part.mean().exp() for part in parts])
    # the mean of a part is over len(part) images, the influence's mean over all N
    weights = [len(logits) / (len(parts) * len(part)) for part in parts]
    own = [w * s * (part - part.mean()) for w, s, part in zip(weights, scores, parts, strict=True)]
    return scores.mean().item(), torch.cat(own)[order.argsort()]


def kl_divergences(log_p: Tensor) -> Tensor:
    """Return KL(p(class | image) || p(class)) in nats of each image, [N], p(class) being the mean over these images.

    Args:
        log_p: log p(class | image), [N, K].
    """
    p = log_p.exp()
    return (p * (log_p - p.mean(dim=0).log())).sum(dim=1)
