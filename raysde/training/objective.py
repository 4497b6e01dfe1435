"""The loss of a microbatch: its noise, times and conditions, all drawn from its own key."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from raysde import rng as randomness
from raysde.conditioning.conditioner import Condition
from raysde.conditioning.images import ImageCondition, draw_planes
from raysde.data.batches.microbatch import Microbatch
from raysde.images.tensors import to_float
from raysde.models.autoencoder import LatentSpec
from raysde.models.score import ScoreModel
from raysde.rng import noise_from
from raysde.sde import expand
from raysde.sde.parameterisation import marginal_for
from raysde.training.losses import Criterion, denoising_score_matching, weigh_by_uncertainty
from raysde.training.time_sampling import Times, Uniform, draw_stratified

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The training objective on a microbatch.

    Attributes:
        batch: number of images in a global batch.
        microbatch: number of images in a microbatch.
        seed: seed of noise, times, condition dropout and flips.
        criterion: weighting and reduction of the loss.
        times: distribution of t.
        condition_dropout: probability that all conditions of an image are dropped.
        attribute_dropout: probability that one numeric attribute of an image is dropped, beside condition_dropout.
        image_condition: image condition of the model, if any.
        dropouts: with several data sets, the first row number of each, ascending, and its probability in place of
            ``condition_dropout``.
        flip: True to mirror images with probability 1/2.
        precision: autocast dtype of the forward pass.
        data_range: float values of black and white.
        latent: latent space of a latent model, None for pixels.
        empty: vectors [1, L, D] of the empty caption, if caption vectors are precomputed.
    """

    batch: int
    microbatch: int
    seed: int
    criterion: Criterion = field(default_factory=Criterion)
    times: Times = field(default_factory=Uniform)
    condition_dropout: float = 0.1
    image_condition: ImageCondition | None = None
    attribute_dropout: float = 0.0
    dropouts: tuple[tuple[int, float], ...] = ()
    flip: bool = False
    precision: Precision = "fp32"
    data_range: tuple[float, float] = (-1.0, 1.0)
    latent: LatentSpec | None = None
    empty: Tensor | None = field(default=None, compare=False)

    def dropout_of(self, rows: np.ndarray, device: torch.device) -> Tensor | float:
        """Return the probability that the condition of each of the rows [B], by number, is dropped: [B], or one."""
        if not self.dropouts:
            return self.condition_dropout
        starts, values = zip(*self.dropouts, strict=True)
        return torch.tensor(values, device=device)[np.searchsorted(starts, rows, side="right") - 1]

    def loss(self, model: ScoreModel, output: Tensor, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Return the loss of each image, [B], given the network's output, x0 and eps [B, ...] and t [B].

        Raises:
            ValueError: if a user-written loss has another shape than the error.
        """
        loss = denoising_score_matching(
            output,
            x0,
            eps,
            t,
            model.sde,
            model.target,
            self.criterion,
            data_std=model.data_std,
            preconditioning=model.preconditioning,
        )
        return self.times.correction(model.sde, t) * loss


def draw_noise(shape: tuple[int, ...], rng: torch.Generator, device: torch.device) -> Tensor:
    """Return standard normal noise of the given shape, drawn from a random stream on ``device``."""
    return torch.randn(shape, generator=rng, device=device)


def seed_layers(seed: int, device: torch.device) -> None:
    """Seed torch's default generators of the CPU and of ``device``; dropout layers take no others.

    Args:
        seed: seed of a microbatch, so that a repeated microbatch repeats its dropout.
    """
    # torch.manual_seed would format a stack trace for each accelerator that is absent: 1.3 ms
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def null_condition(model: ScoreModel, objective: Objective) -> Condition:
    """Return the condition that replaces dropped ones, of batch size 1."""
    if objective.empty is None:
        return model.conditioner.null()
    mask = torch.ones(objective.empty.shape[:2], dtype=torch.bool)
    return model.conditioner.condition(None, None, 1, context=objective.empty, mask=mask)


def microbatch_loss(
    forward: nn.Module, model: ScoreModel, batch: Microbatch, objective: Objective, device: torch.device
) -> Tensor:
    """Return the mean loss of a microbatch, a scalar; all randomness comes from its key (seed, step, index).

    Raises:
        ValueError: if the model does not take the batch's conditions, or user-written code returns another shape.
    """
    place = (batch.step, batch.index)
    rng = randomness.generator(objective.seed, randomness.MICROBATCH, *place, device=device)
    seed_layers(randomness.key(objective.seed, randomness.DROPOUT, *place), device)
    count = len(batch.rows)
    x0 = draw_clean(batch, objective.data_range, objective.latent, rng, device)
    second = second_images(batch, objective.data_range, device)
    if objective.flip:
        coin = torch.rand(count, generator=rng, device=device) < 0.5
        x0, second = mirror(x0, coin), None if second is None else mirror(second, coin)
    shared = randomness.generator(objective.seed, randomness.TIMES, batch.step, device=device)
    offset = torch.rand((), generator=shared, device=device)
    u = draw_stratified(offset, batch.index * objective.microbatch, count, objective.batch)
    t = objective.times.quantile(model.sde, u).to(torch.float32)
    eps = draw_noise(tuple(x0.shape), rng, device)
    conditioner = model.conditioner
    condition = conditioner.condition(
        batch.captions if conditioner.tokenizer is not None else None,
        batch.labels if conditioner.classes else None,
        count,
        context=batch.context,
        mask=batch.context_mask,
        attributes=batch.attributes if conditioner.attributes else None,
    ).to(device)
    if condition.attributes is not None and objective.attribute_dropout:
        own = randomness.generator(objective.seed, randomness.ATTRIBUTES, *place)
        chance = torch.rand(condition.attributes.shape, generator=own)
        condition = condition.drop_attributes((chance < objective.attribute_dropout).to(device))
    if objective.image_condition is not None:
        own = randomness.generator(objective.seed, randomness.PLANES, *place, device=device)
        condition = replace(condition, image=draw_planes(objective.image_condition, x0, own, second))
    if not condition.is_empty:
        drop = torch.rand(count, generator=rng, device=device) < objective.dropout_of(batch.rows, device)
        condition = condition.drop_rows(drop, null_condition(model, objective).to(device))
    alpha, sigma = marginal_for(model.sde, t, x0)
    with torch.autocast(device.type, DTYPES[objective.precision], enabled=objective.precision != "fp32"):
        output, log_variance = forward(alpha * x0 + sigma * eps, t, condition)
    loss = objective.loss(model, output, x0, eps, t)
    return weigh_by_uncertainty(loss, log_variance).mean()


def mirror(images: Tensor, chosen: Tensor) -> Tensor:
    """Return images [B, C, H, W] with those mirrored for which ``chosen``, bool [B], is True."""
    return torch.where(expand(chosen, images), images.flip(-1), images)


def second_images(batch: Microbatch, data_range: tuple[float, float], device: torch.device) -> Tensor | None:
    """Return the second images of a microbatch in the data range, [B, C, H, W]; None if it has none."""
    if batch.condition_images is None:
        return None
    return to_float(batch.condition_images.to(device, non_blocking=True), *data_range)


def draw_clean(
    batch: Microbatch,
    data_range: tuple[float, float],
    latent: LatentSpec | None,
    rng: torch.Generator | Sequence[torch.Generator],
    device: torch.device,
) -> Tensor:
    """Return x0 of a microbatch, [B, C, H, W]: its images in the data range, or latents drawn from their posteriors.

    Args:
        rng: one random stream for the batch, or one per row.

    Raises:
        ValueError: if the number of random streams differs from that of the latents.
    """
    if latent is None:
        return to_float(batch.images.to(device, non_blocking=True).contiguous(), *data_range)
    assert batch.moments is not None
    eps = noise_from(rng)(torch.empty(len(batch.rows), *latent.shape, device=device))
    return latent.x0(batch.moments.to(device, non_blocking=True), eps)
