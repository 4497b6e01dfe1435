"""Loss on held-out rows, at noise levels that mean the same under every SDE.

Each row is noised once in each bin of log-SNR, at a place in the bin and with noise that depend on the row alone, and
the squared error of the predicted noise is averaged per bin. ``val/loss`` is the mean over bins.
"""

from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor

from raysde import randomness
from raysde.data.batches import Microbatch, clean
from raysde.distributed import World
from raysde.latents import LatentSpec
from raysde.score import ScoreModel
from raysde.sde import SDE, expand

EDGES = (-8.0, -5.0, -3.0, -1.0, 1.0, 3.0, 5.0, 8.0)
BINS = tuple(pairwise(EDGES))


def times_in_bin(sde: SDE, low: float, high: float, places: Tensor) -> Tensor:
    """Times whose log-SNR lies at ``places`` (in [0, 1)) of a bin, kept inside the SDE's domain."""
    t = sde.time_at(low + (high - low) * places.double())
    return t.clamp(sde.train_floor, sde.ceiling).to(torch.float32)


def validation_loss(
    model: ScoreModel,
    batches: Iterable[Microbatch],
    seed: int,
    data_range: tuple[float, float],
    world: World,
    latent: LatentSpec | None = None,
) -> dict[str, float]:
    """``val/loss`` and ``val/loss_snr_LOW_to_HIGH`` per bin of log-SNR, equal on all ranks.

    Args:
        batches: this rank's share of the held-out microbatches.
        latent: the space that the model is trained in, None for pixels.
    """
    totals = torch.zeros(len(BINS) + 1, dtype=torch.float64, device=world.device)
    for batch in batches:
        rng = randomness.generator(seed, randomness.VALIDATION, batch.index, device=world.device)
        x0 = clean(batch, data_range, latent, rng, world.device)
        conditioner = model.conditioner
        captions = batch.captions if conditioner.tokenizer is not None else None
        labels = batch.labels if conditioner.classes else None
        condition = conditioner.condition(captions, labels, len(x0), context=batch.context, mask=batch.context_mask)
        encoded = conditioner(condition.to(world.device))
        for number, (low, high) in enumerate(BINS):
            places = torch.rand(len(x0), generator=rng, device=world.device)
            eps = torch.randn(x0.shape, generator=rng, device=world.device)
            t = times_in_bin(model.sde, low, high, places)
            alpha, sigma = (expand(value, x0) for value in model.sde.marginal(t))
            error = model.eps_hat(alpha * x0 + sigma * eps, t, encoded) - eps
            totals[number] += error.square().flatten(1).mean(dim=1).sum()
        totals[-1] += len(x0)
    totals = world.sum(totals).cpu()
    bins = (totals[:-1] / totals[-1]).tolist()
    named = {f"val/loss_snr_{low:.0f}_to_{high:.0f}": value for (low, high), value in zip(BINS, bins, strict=True)}
    return {"val/loss": sum(bins) / len(bins), **named}
