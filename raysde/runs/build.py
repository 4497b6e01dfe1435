"""Conversion of a recipe into the objects that the training loop takes."""

import json
from collections.abc import Callable
from dataclasses import replace

import torch

from raysde.conditioning.text import ScratchText
from raysde.config.intervals import seconds_of, steps_of
from raysde.config.sections import Train
from raysde.data.batches.microbatch import held_out_batches
from raysde.data.dataset.precomputed_rows import Contexts
from raysde.distributed.fsdp import autocast_evaluation, has_shards, shard_model
from raysde.distributed.world import World, current_world
from raysde.models.score import ScoreModel
from raysde.models.spec import fresh_model
from raysde.runs.run import Run
from raysde.training import optimizers
from raysde.training.ema import Ema
from raysde.training.external import ExternalLoss, ExternalOptimizer, ExternalSchedule
from raysde.training.loop import Schedule
from raysde.training.losses import Criterion
from raysde.training.objective import DTYPES, Objective
from raysde.training.posthoc_ema import PowerEma
from raysde.training.ranking import Ranking
from raysde.training.state import TrainState
from raysde.training.time_sampling import default_time_sampling
from raysde.training.validation import validation_loss

CAPTION_SAMPLE = 200_000


def new_state(run: Run, device: torch.device) -> TrainState:
    """Return the initial weights, optimizer state and averages on ``device``.

    Raises:
        ValueError: as :func:`raysde.models.spec.fresh_model` and :func:`place_model`.
    """
    train = run.config.train
    captions = sample_captions(run, current_world())
    model = fresh_model(run.spec, captions, run.config.seed)
    if model.conditioner.tokenizer is not None and current_world().is_first:
        model.conditioner.tokenizer.warn_of_cut(captions)
    place_model(run, model, device)
    optimizer = new_optimizer(train, model)
    scaler = torch.amp.GradScaler(device.type, enabled=train.precision == "fp16")
    ema = Ema(model, half_life=train.ema.half_life, rampup=train.ema.rampup)
    profiles = [PowerEma(model, std=std) for std in train.ema.profiles]
    return TrainState(model, ema, optimizer, scaler, profiles=profiles)


def sample_captions(run: Run, world: World) -> list[str]:
    """Return distinct captions of the training rows, if the model takes captions; one rank reads the data set.

    All ranks have them if they train a tokenizer. Otherwise the first rank alone has them, to warn of long ones.
    """
    if run.spec.text is None:
        return []
    captions = run.sources.sample_captions(CAPTION_SAMPLE) if world.is_first else []
    if isinstance(run.spec.text, ScratchText):
        captions = json.loads(world.share_text(json.dumps(captions)))
    return captions


def new_optimizer(train: Train, model: ScoreModel) -> torch.optim.Optimizer:
    """Return the recipe's optimizer over the trainable parameters."""
    if isinstance(train.optimizer, ExternalOptimizer):
        text = model.conditioner.text_parameters
        groups = optimizers.parameter_groups(model.parameters(), text, train.lr, train.text_lr)
        return train.optimizer.build(groups, lr=train.lr, weight_decay=train.weight_decay)
    make = optimizers.OPTIMIZERS[train.optimizer]
    return make(model, lr=train.lr, betas=train.betas, weight_decay=train.weight_decay, text_lr=train.text_lr)


def make_criterion(train: Train) -> Criterion:
    """Return the weighting and the reduction of the recipe's loss."""
    rest = Criterion(reduction=train.reduction, min_snr_gamma=train.min_snr_gamma)
    if isinstance(train.weighting, ExternalLoss):
        return replace(rest, own=train.weighting.build())
    return replace(rest, weighting=train.weighting)


def place_model(run: Run, model: ScoreModel, device: torch.device) -> None:
    """Move a model to its device: whole, or this rank's shard of it.

    Raises:
        ValueError: if the workers of a sharded model would have unequal shares of a batch, or a parameter cannot be
            sharded.
    """
    world = replace(current_world(), device=device)
    if run.config.resources.strategy == "ddp" or world.size == 1:
        model.to(device)
        if device.type == "cuda":
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return
    if run.plan.microbatches % world.size:
        raise ValueError(
            f"resources.strategy=fsdp needs equal shares: train.batch={run.config.train.batch} makes "
            f"{run.plan.microbatches} microbatches of {run.plan.microbatch} for {world.size} workers; "
            "set train.microbatch so that the workers divide their number"
        )
    shard_model(model, world, gathered_dtype(run, device))


def gathered_dtype(run: Run, device: torch.device) -> torch.dtype:
    """Return the dtype in which a sharded model's weights are gathered: the training precision on GPUs, float32 on
    CPUs, whose norms do not mix half-precision weights with float32 images."""
    return DTYPES[run.config.train.precision] if device.type == "cuda" else torch.float32


def make_objective(run: Run) -> Objective:
    """Return the training objective of the recipe."""
    train = run.config.train
    return Objective(
        batch=train.batch,
        microbatch=run.plan.microbatch,
        seed=run.config.seed,
        criterion=make_criterion(train),
        times=train.times or default_time_sampling(run.spec.process),
        condition_dropout=train.condition_dropout,
        attribute_dropout=run.config.attributes.dropout,
        image_condition=run.spec.image_condition,
        dropouts=run.sources.dropouts(train.condition_dropout),
        flip=run.config.data.flip,
        precision=train.precision,
        data_range=run.config.data.range,
        latent=run.spec.latent,
        empty=None if run.text is None else torch.from_numpy(Contexts(run.text, run.manifest).empty.copy())[None],
    )


def make_schedule(run: Run) -> Schedule:
    """Return the length of a run, and the steps between its checkpoints, validations, sample grids and log entries."""
    config, decay = run.config, run.config.train.decay
    return Schedule(
        steps=run.steps,
        lr=config.train.lr,
        warmup=config.train.warmup,
        decay=decay.build() if isinstance(decay, ExternalSchedule) else decay,
        clip=config.train.clip,
        log_every=config.log_every,
        validate_every=config.validation.every if len(run.held_out) else 0,
        sample_every=config.sampling.every,
        save_every=steps_of(config.checkpoint_every),
        save_seconds=seconds_of(config.checkpoint_every),
        snapshot_every=config.train.ema.snapshots_every,
        patience=config.validation.patience,
        on_bad_step=config.train.on_bad_step,
        bad_steps=config.train.bad_steps,
        ranking=Ranking.of(config.flat()),
        ranks_all=config.ranks_all,
        quality_every=config.validation.quality_every,
        delay=config.validation.decision_delay,
        ranks_by_quality=config.ranks_by_quality,
    )


def make_validator(run: Run, world: World) -> Callable[[ScoreModel], dict[str, float]] | None:
    """Return a function that computes the validation loss on the held-out rows; None without such rows.

    Raises:
        ValueError: if the data set no longer has the run's fingerprint.
    """
    if not len(run.held_out):
        return None
    reader = run.sources.share_reader(run.feed.fields)
    size = run.plan.microbatch

    def validate(model: ScoreModel) -> dict[str, float]:
        batches = held_out_batches(reader, run.held_out, size, run.feed.view, world.rank, world.size)
        spare = next(held_out_batches(reader, run.held_out, size, run.feed.view, 0, 1)) if has_shards(model) else None
        with autocast_evaluation(model, gathered_dtype(run, world.device)):
            return validation_loss(
                model,
                batches,
                run.config.seed,
                run.config.data.range,
                world,
                run.spec.latent,
                spare,
                run.spec.image_condition,
            )

    return validate
