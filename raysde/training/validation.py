"""Validation: denoising errors on held-out rows, at noise levels that are comparable across SDEs.

Each row is noised once in each bin of log-SNR. Its place in the bin and its noise depend only on the seed and the row's
number. One evaluation of the network gives both metrics.

``val/loss`` is the squared error of the predicted noise, averaged per bin and then over bins. Where the model's SDE
does not reach a noise level, the nearest one that it reaches is used.

``val/denoising`` compares models of different SDEs, targets, weightings and data ranges. Its bins are the squared error
of x0_hat, of pixels in [-1, 1] (for a latent model in units of its latents, so only models of one autoencoder are
comparable). Such errors grow by orders of magnitude with the noise. The mean over bins is therefore of errors relative
to the best linear denoiser of isotropic data with the rows' variance v (Wiener 1949), v n^2 / (v + n^2) at noise level
n = sigma / alpha. A model that knows only mean and variance of a pixel scores 1 at every noise level. The divisor is
the reciprocal of Karras et al.'s weight (2022, arXiv 2206.00364, table 1), chosen for the same reason. Noise levels
that an SDE does not reach count as that linear denoiser; ``val/denoising_reach`` is the fraction that it reaches.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from raysde import rng
from raysde.conditioning.images import ImageCondition, draw_planes
from raysde.data.batches.microbatch import Microbatch
from raysde.distributed.world import World
from raysde.models.autoencoder import LatentSpec
from raysde.models.score import ScoreModel
from raysde.sde import SDE, expand
from raysde.training.objective import draw_clean, second_images

EDGES = (-8.0, -5.0, -3.0, -1.0, 1.0, 3.0, 5.0, 8.0)
"""Edges of the log-SNR bins, for pixels in [-1, 1]."""
BINS = tuple(pairwise(EDGES))
METRICS = (
    "val/loss",
    "val/denoising",
    "val/denoising_reach",
    *(f"val/{name}_snr_{low:.0f}_to_{high:.0f}" for name in ("loss", "denoising") for low, high in BINS),
)
"""Names of the metrics of :func:`validation_loss`."""


def times_at(sde: SDE, log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """Return times [B] of log-SNRs [B], clamped to the SDE's range, and bool [B], True where they lay inside it."""
    least, most = (sde.log_snr(log_snr.new_tensor(t)) for t in (sde.ceiling, sde.train_floor))
    t = sde.time_at(log_snr).clamp(sde.train_floor, sde.ceiling)
    return t.to(torch.float32), (least <= log_snr) & (log_snr <= most)


def common_noise(streams: Sequence[torch.Generator], shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return each row's place in each bin, in [0, 1), float64 [B, bins], and its noise [B, bins, *shape]."""
    places = [torch.rand(len(BINS), generator=stream, dtype=torch.float64) for stream in streams]
    eps = [torch.randn((len(BINS), *shape), generator=stream) for stream in streams]
    return torch.stack(places), torch.stack(eps)


def linear_error(variance: Tensor, noise2: Tensor) -> Tensor:
    """Return v n^2 / (v + n^2), the mean squared error of the best linear denoiser of a pixel.

    Args:
        variance: variance v of the pixel, of any shape.
        noise2: variance n^2 of the noise, in the same units; it broadcasts against ``variance``.
    """
    return variance * noise2 / (variance + noise2)


@dataclass(frozen=True)
class Seen:
    """Measurements on some rows.

    Attributes:
        loss: squared error of the predicted noise, [B, bins] float64.
        denoising: squared error of x0_hat in pixels from -1 to 1, [B, bins]; undefined where ``reached`` is False.
        noise2: n^2 of the noise level, in the same units, [B, bins].
        reached: True where the SDE reaches the noise level, bool [B, bins].
        mean, power: mean of a row's pixels and of their squares, in the same units up to a shift, [B].
    """

    loss: Tensor
    denoising: Tensor
    noise2: Tensor
    reached: Tensor
    mean: Tensor
    power: Tensor

    @staticmethod
    def of(parts: "Sequence[Seen]") -> "Seen":
        """Concatenate measurements along the rows; ``parts`` may be empty."""
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
    image_condition: ImageCondition | None = None,
) -> Seen:
    """Return the measurements on a microbatch of B rows, with one evaluation of the network per bin of log-SNR.

    Args:
        seed: seed of the noise and of its level, which also depend on each row's number.
        data_range: float values of black and white.
        latent: autoencoder of a latent model; None for a model of pixels.
        image_condition: image condition of the model, if any.

    Raises:
        ValueError: if the model does not take the batch's conditions.
    """
    scale = 1.0 if latent is not None else 2.0 / (data_range[1] - data_range[0])
    streams = [rng.generator(seed, rng.VALIDATION, int(row)) for row in batch.rows]
    x0 = draw_clean(batch, data_range, latent, streams, device)
    conditioner = model.conditioner
    captions = batch.captions if conditioner.tokenizer is not None else None
    labels = batch.labels if conditioner.classes else None
    numbers = batch.attributes if conditioner.attributes else None
    context = {"context": batch.context, "mask": batch.context_mask}
    condition = conditioner.condition(captions, labels, len(x0), **context, attributes=numbers)
    if image_condition is not None:
        own = [rng.generator(seed, rng.VALIDATION, int(row), 1) for row in batch.rows]
        undropped = replace(image_condition, dropout=0.0)
        second = second_images(batch, data_range, device)
        parts = [None] * len(x0) if second is None else list(second.split(1))
        planes = [
            draw_planes(undropped, each[None], stream, part) for each, stream, part in zip(x0, own, parts, strict=True)
        ]
        condition = replace(condition, image=torch.cat(planes))
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
    """Yield each batch with True; then, if ``spare`` is given, ``spare`` with False until all ranks have run out."""
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
    image_condition: ImageCondition | None = None,
) -> dict[str, float]:
    """Return the validation metrics, equal on all ranks.

    They are ``val/loss``, ``val/denoising`` and ``val/denoising_reach``, and per bin ``val/loss_snr_LOW_to_HIGH`` and
    ``val/denoising_snr_LOW_to_HIGH``.

    Args:
        batches: this rank's share of the held-out microbatches.
        latent: latent space of a latent model, None for pixels.
        image_condition: image condition of the model, if any.
        spare: microbatch that a rank without further batches computes, uncounted, in step with other ranks, or None.

    Raises:
        ValueError: as :func:`measure_bins`.
    """
    parts = []
    for batch, counted in keep_in_step(batches, world, spare):
        part = measure_bins(model, batch, seed, data_range, world.device, latent, image_condition)
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
    """Return the concatenation [N] of 1-D ``values``, summed over ranks, on the CPU."""
    return world.sum(torch.cat(values).to(world.device)).cpu()


def name_bins(name: str, bins: Tensor) -> dict[str, float]:
    """Return the values of the bins [bins] as metrics, named after the bins' edges."""
    values = zip(BINS, bins.tolist(), strict=True)
    return {f"{name}_snr_{low:.0f}_to_{high:.0f}": value for (low, high), value in values}
