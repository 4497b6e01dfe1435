"""How well a model takes noise off held-out rows, at noise levels that mean the same under every SDE.

Each row is noised once in each bin of log-SNR, at a place in the bin and with noise that depend on the seed and the
row's number alone, and a single answer of the network gives both kinds of figure.

``val/loss`` is the squared error of the predicted noise, averaged per bin and then over bins. It is the model's own
figure: where its SDE does not reach a noise level, it is asked at the nearest one that it knows.

``val/denoising`` is for comparing models of other SDEs, targets, weightings and data ranges. Its bins are the squared
error of x0_hat, of pixels in [-1, 1] (of a latent model: in its latents' own units, so that one autoencoder is one
comparison). Such errors rise by orders of magnitude with the noise, so the mean over bins is of errors relative to
those of the best linear denoiser of isotropic data with the rows' variance v (Wiener 1949), v n^2 / (v + n^2) at noise
level n = sigma / alpha: 1 for a model that knows mean and variance of a pixel and no more, at every noise level. That
divisor is the reciprocal of Karras et al.'s weight (2022, arXiv 2206.00364, table 1), which they chose for the same
reason. Where an SDE does not reach a noise level its model has nothing to say, and is counted as that linear denoiser;
``val/denoising_reach`` is the share of places that it does reach.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from raysde import rng
from raysde.data.batches.microbatch import Microbatch
from raysde.distributed.world import World
from raysde.models.autoencoder import LatentSpec
from raysde.models.score import ScoreModel
from raysde.sde import SDE, expand
from raysde.training.objective import draw_clean

EDGES = (-8.0, -5.0, -3.0, -1.0, 1.0, 3.0, 5.0, 8.0)
"""Of the bins of log-SNR, for pixels in [-1, 1]."""
BINS = tuple(pairwise(EDGES))


def times_at(sde: SDE, log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """Times [B] of log-SNRs [B], kept inside the SDE's domain, and whether they lay inside it, bool [B]."""
    least, most = (sde.log_snr(log_snr.new_tensor(t)) for t in (sde.ceiling, sde.train_floor))
    t = sde.time_at(log_snr).clamp(sde.train_floor, sde.ceiling)
    return t.to(torch.float32), (least <= log_snr) & (log_snr <= most)


def common_noise(streams: Sequence[torch.Generator], shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """For each row and bin a place in [0, 1), float64 [B, bins], and noise [B, bins, *shape], from the row's stream."""
    places = [torch.rand(len(BINS), generator=stream, dtype=torch.float64) for stream in streams]
    eps = [torch.randn((len(BINS), *shape), generator=stream) for stream in streams]
    return torch.stack(places), torch.stack(eps)


def linear_error(variance: Tensor, noise2: Tensor) -> Tensor:
    """Mean squared error of the best linear denoiser, where the noise has variance ``noise2``."""
    return variance * noise2 / (variance + noise2)


@dataclass(frozen=True)
class Seen:
    """What is found of some rows.

    Attributes:
        loss: squared error of the predicted noise, [B, bins] float64.
        denoising: squared error of x0_hat in pixels from -1 to 1, [B, bins]; without meaning where nothing is reached.
        noise2: n^2 of the place in the same units, [B, bins].
        reached: whether the SDE reaches it, bool [B, bins].
        mean, power: of a row's pixels and their squares, in the same units but for a constant, [B].
    """

    loss: Tensor
    denoising: Tensor
    noise2: Tensor
    reached: Tensor
    mean: Tensor
    power: Tensor

    @staticmethod
    def of(parts: "Sequence[Seen]") -> "Seen":
        """All parts in one; there may be none."""
        row = torch.zeros(0, dtype=torch.float64)
        table = row.reshape(0, len(BINS))
        nothing = Seen(table, table, table, table.bool(), row, row)
        return Seen(*(torch.cat([getattr(part, name) for part in (nothing, *parts)]) for name in vars(nothing)))


def measure_bins(
    model: ScoreModel,
    batch: Microbatch,
    seed: int,
    data_range: tuple[float, float],
    device: torch.device,
    latent: LatentSpec | None,
) -> Seen:
    """Asks the network once for each bin."""
    scale = 1.0 if latent is not None else 2.0 / (data_range[1] - data_range[0])
    streams = [rng.generator(seed, rng.VALIDATION, int(row)) for row in batch.rows]
    x0 = draw_clean(batch, data_range, latent, streams, device)
    conditioner = model.conditioner
    captions = batch.captions if conditioner.tokenizer is not None else None
    labels = batch.labels if conditioner.classes else None
    condition = conditioner.condition(captions, labels, len(x0), context=batch.context, mask=batch.context_mask)
    encoded = conditioner(condition.to(device))
    places, noise = common_noise(streams, x0.shape[1:])
    low, high = torch.tensor(BINS, dtype=torch.float64).T
    log_snr = low + (high - low) * places
    losses, denoising, inside = [], [], []
    for number in range(len(BINS)):
        eps = noise[:, number].to(device)
        t, reached = times_at(model.sde, log_snr[:, number] + 2.0 * math.log(scale))
        alpha, sigma = model.sde.marginal(t.to(device))
        x_t = expand(alpha, x0) * x0 + expand(sigma, x0) * eps
        loss = (model.eps_hat(x_t, t.to(device), encoded) - eps).square().flatten(1).mean(dim=1).double()
        losses.append(loss.cpu())
        # x0_hat - x0 = -sigma / alpha (eps_hat - eps)
        denoising.append((loss * (scale * sigma / alpha).double().square()).cpu())
        inside.append(reached)
    flat = (scale * x0).double().flatten(1).cpu()
    return Seen(
        loss=torch.stack(losses, dim=1),
        denoising=torch.stack(denoising, dim=1),
        noise2=torch.exp(-log_snr),
        reached=torch.stack(inside, dim=1),
        mean=flat.mean(dim=1),
        power=flat.square().mean(dim=1),
    )


def keep_in_step(
    batches: Iterable[Microbatch], world: World, spare: Microbatch | None
) -> Iterator[tuple[Microbatch, bool]]:
    """Each batch and that it counts; with a ``spare``, that one uncounted until all ranks have run out of theirs."""
    rest = iter(batches)
    while True:
        batch = next(rest, None)
        going = batch is not None if spare is None else world.any(batch is not None)
        if not going:
            return
        if batch is not None:
            yield batch, True
        elif spare is not None:
            yield spare, False


def validation_loss(
    model: ScoreModel,
    batches: Iterable[Microbatch],
    seed: int,
    data_range: tuple[float, float],
    world: World,
    latent: LatentSpec | None = None,
    spare: Microbatch | None = None,
) -> dict[str, float]:
    """``val/loss``, ``val/denoising`` and ``val/denoising_reach``, and per bin ``val/loss_snr_LOW_to_HIGH`` and
    ``val/denoising_snr_LOW_to_HIGH``, equal on all ranks.

    Args:
        batches: this rank's share of the held-out microbatches.
        latent: the space that the model is trained in, None for pixels.
        spare: what a rank without further batches computes, uncounted, while others still do; None where ranks need
            not run together.
    """
    parts = []
    for batch, counted in keep_in_step(batches, world, spare):
        part = measure_bins(model, batch, seed, data_range, world.device, latent)
        parts += [part] if counted else []
    found = Seen.of(parts)
    count = torch.tensor([float(len(found.mean))], dtype=torch.float64)
    loss = found.loss.sum(dim=0)
    total = sum_over_ranks(world, count, found.mean.sum()[None], found.power.sum()[None], loss)
    rows, mean, power = total[0], total[1] / total[0], total[2] / total[0]
    linear = linear_error(power - mean.square(), found.noise2)
    errors = torch.where(found.reached, found.denoising, linear)
    sums = sum_over_ranks(world, errors.sum(dim=0), linear.sum(dim=0), found.reached.double().mean(dim=1).sum()[None])
    errors, linear, reach = sums[: len(BINS)], sums[len(BINS) : -1], sums[-1]
    return {
        "val/loss": (total[3:] / rows).mean().item(),
        "val/denoising": (errors / linear).mean().item(),
        "val/denoising_reach": (reach / rows).item(),
        **name_bins("val/loss", total[3:] / rows),
        **name_bins("val/denoising", errors / rows),
    }


def sum_over_ranks(world: World, *values: Tensor) -> Tensor:
    """Vectors one after another, summed over ranks."""
    return world.sum(torch.cat(values).to(world.device)).cpu()


def name_bins(name: str, bins: Tensor) -> dict[str, float]:
    """A value of each bin [bins] under the bin's name."""
    values = zip(BINS, bins.tolist(), strict=True)
    return {f"{name}_snr_{low:.0f}_to_{high:.0f}": value for (low, high), value in values}
