"""From a recipe to the pieces that the loop takes: the one place where the recipe is unpacked into values."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from raysde import checkpoint, images, optim
from raysde.captions import PretrainedText, ScratchText, width_of
from raysde.conditioning import CLASS_WIDTH
from raysde.config import RunConfig
from raysde.data.augment import View
from raysde.data.batches import Feed, held_out_batches
from raysde.data.derived import Latents, TextEmbeddings, verify_derived
from raysde.data.layout import Rows
from raysde.data.manifest import Manifest, read_manifest
from raysde.data.plan import Plan
from raysde.data.reader import Reader, opened
from raysde.data.shards import distinct_captions, verify
from raysde.data.split import shuffle_window, split_rows
from raysde.data.vectors import Contexts
from raysde.distributed import World, current_world
from raysde.ema import Ema
from raysde.model import ModelSpec, fresh_model, preconditioning_for
from raysde.networks import ExternalConfig
from raysde.objective import DTYPES, Objective
from raysde.posthoc import PowerEma
from raysde.precomputed import find_latents, find_text, spec_of
from raysde.pretrained import check_pretrained
from raysde.score import ScoreModel
from raysde.sde import VE, AnySDE
from raysde.sharding import evaluating, has_shards, shard
from raysde.state import TrainState
from raysde.times import suited
from raysde.train import Schedule
from raysde.validation import validation_loss

CAPTION_SAMPLE = 200_000
MAY_CHANGE = (
    "storage",
    "data.path",
    "data.verify",
    "data.block_megabytes",
    "data.block_steps",
    "data.precomputed",
    "network.checkpointing",
    "train.length.",
    "train.microbatch",
    "train.compile",
    "train.ema.snapshots_every",
    "validation.every",
    "validation.patience",
    "sampling.",
    "resources.",
    "tracking.",
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
)
"""Keys that a resumed run may give anew; all others shape the numbers."""


@dataclass(frozen=True)
class Run:
    """A recipe with its data set looked up.

    Attributes:
        feed: the microbatches: plan, rows to train on, and how images are shown.
        held_out: row numbers for validation.
        steps: length of the run.
        text: precomputed embeddings of the captions, if they are used.
        latents: precomputed latents of the images, if they are trained on.
    """

    config: RunConfig
    manifest: Manifest
    spec: ModelSpec
    feed: Feed
    held_out: np.ndarray
    steps: int
    text: TextEmbeddings | None = None
    latents: Latents | None = None

    @property
    def plan(self) -> Plan:
        return self.feed.plan

    @property
    def data_identity(self) -> dict[str, Any]:
        found = {"path": self.manifest.path, "fingerprint": self.manifest.fingerprint, "rows": self.manifest.rows}
        precomputed: dict[str, Any] = {each.kind: each.name for each in (self.text, self.latents) if each is not None}
        return {**found, **precomputed}


def open_run(config: RunConfig) -> Run:
    """Looks the data set up and checks that the recipe fits it.

    Raises:
        ValueError: naming the key that does not fit.
    """
    manifest = read_manifest(config.data.path)
    if config.text is not None and manifest.captions == 0:
        raise ValueError(f"text is set, but the shards at {config.data.path} hold no captions")
    if config.class_conditional and manifest.classes == 0:
        raise ValueError(f"class_conditional is set, but the shards at {config.data.path} hold no labels")
    if unknown := [label for label in config.sampling.labels if label >= manifest.classes]:
        raise ValueError(f"sampling.labels has {unknown[0]}, but the data set has classes 0..{manifest.classes - 1}")
    view = view_of(config, manifest)
    rows, held_out = split_rows(manifest, config.validation.rows, config.seed)
    latents = None if config.latent is None else find_latents(manifest, config.latent.vae, view.shape)
    image = (manifest.channels, *view.shape) if view.shape is not None else manifest.image
    spec = ModelSpec(
        image=image if latents is None else latents.shape,
        data_range=config.data.range,
        data_std=config.data.std,
        sde=sde_for(config, manifest, rows, view),
        network=config.network,
        target=config.target,
        text=config.text,
        classes=manifest.classes if config.class_conditional else 0,
        preconditioning=config.preconditioning,
        uncertainty=config.train.uncertainty == "learned",
        latent=None if latents is None or config.latent is None else spec_of(latents, config.latent.vae),
    )
    steps = config.train.length.in_steps(config.train.batch, rows.count)
    feed = Feed(plan_for(config, manifest, rows), rows, view)
    text = find_text(manifest, config.text, config.data.precomputed)
    return Run(config, manifest, spec, feed, held_out, steps, text, latents)


def view_of(config: RunConfig, manifest: Manifest) -> View:
    """How images are shown.

    Raises:
        ValueError: if the data set has buckets of another size than the recipe wants.
    """
    size = config.data.image_size
    shape = None if size is None else (size, size)
    square = manifest.size
    if square is not None and shape not in (None, square) and manifest.shapes - {None, square}:
        raise ValueError(
            f"data.image_size={size}, but the shards at {config.data.path} hold buckets about {square[0]}; "
            f"ingest again with --size {size}"
        )
    return View(shape, config.data.crop, config.data.scale)


def plan_for(config: RunConfig, manifest: Manifest, rows: Rows) -> Plan:
    """The order of a run's rows."""
    return Plan(
        rows=rows.count,
        batch=config.train.batch,
        microbatch=config.microbatch,
        seed=config.seed,
        window=shuffle_window(manifest, config.data.shuffle_window),
        chunk=manifest.row_group,
        buckets=rows.sizes if len(rows.layouts) > 1 else (),
    )


def sde_for(config: RunConfig, manifest: Manifest, rows: Rows, view: View) -> AnySDE:
    """The recipe's SDE, with VE's sigma_max taken from a sample of the training images where the recipe asks for it.

    Raises:
        ValueError: if it asks for it with another SDE.
    """
    count = config.data.sigma_max_rows
    if not count:
        return config.sde
    if not isinstance(config.sde, VE):
        raise ValueError(f"data.sigma_max_rows={count} needs sde.kind=ve, got {config.sde.kind}")
    chosen = np.sort(np.random.default_rng(config.seed).choice(rows.count, min(count, rows.count), replace=False))
    x0 = images.to_float(torch.from_numpy(Reader(manifest).read(rows[chosen], view).images), *config.data.range)
    return replace(config.sde, sigma_max=VE.for_data(x0, config.sde.sigma_min).sigma_max)


def check(run: Run) -> None:
    """What can be found wrong before a worker starts: shards unlike the manifest, a network that cannot be built.

    Raises:
        ValueError: naming the culprit.
    """
    hashes = run.config.data.verify == "hash"
    verify(run.manifest, hashes=hashes)
    for derived in (run.text, run.latents):
        if derived is not None:
            verify_derived(derived, run.manifest, hashes=hashes)
    check_model(run.spec)


def check_model(spec: ModelSpec) -> None:
    """Builds the network of a description without its weights.

    Raises:
        ValueError: naming what does not fit.
    """
    preconditioning_for(spec)
    width = condition_width(spec)
    if not isinstance(spec.network, ExternalConfig):
        with torch.device("meta"):
            spec.network.build(spec.image, width, True, None if spec.text is None else width)


def condition_width(spec: ModelSpec) -> int | None:
    """The width that the conditioning vectors of a description will have, None without conditions.

    Raises:
        ValueError: if its pretrained text encoder cannot be loaded.
    """
    if isinstance(spec.text, PretrainedText):
        return width_of(check_pretrained(spec.text))
    return spec.text.width if isinstance(spec.text, ScratchText) else CLASS_WIDTH if spec.classes else None


def check_resumable(run: Run, found: checkpoint.Description) -> None:
    """Compares a run's checkpoint with the recipe that would continue it.

    Raises:
        ValueError: naming the first key that differs and would change the numbers.
    """
    name = run.config.name
    if found.spec.sde.kind != run.spec.sde.kind:
        raise ValueError(
            f"run {name!r} was trained with sde.kind={found.spec.sde.kind}, the recipe says {run.spec.sde.kind}; "
            "choose another name"
        )
    now = run.config.flat()
    for key in sorted(set(found.recipe) | set(now)):
        old, new = found.recipe.get(key), now.get(key)
        if old != new and not key.startswith(MAY_CHANGE):
            raise ValueError(f"run {name!r} has {key}={old}, the recipe says {new}; choose another name to start anew")
    if found.data["microbatch"] != run.plan.microbatch:
        raise ValueError(
            f"run {name!r} has microbatches of {found.data['microbatch']}, the recipe makes {run.plan.microbatch}; "
            f"set train.microbatch={found.data['microbatch']}"
        )
    if found.data["fingerprint"] != run.manifest.fingerprint:
        raise ValueError(
            f"run {name!r} was trained on other data than {run.config.data.path} "
            f"(fingerprint {found.data['fingerprint']}, now {run.manifest.fingerprint})"
        )
    for kind in ("text", "latents"):
        before, present = (data.get(kind) for data in (found.data, run.data_identity))
        if before != present:
            repair = "precompute those again" if before else "set data.precomputed=off"
            raise ValueError(
                f"run {name!r} was trained with {before or 'no'} precomputed {kind}, the recipe takes "
                f"{present or 'none'}; {repair}, or choose another name"
            )


def new_state(run: Run, device: torch.device) -> TrainState:
    """Initial weights, optimiser and average."""
    train = run.config.train
    captions = distinct_captions(run.manifest, CAPTION_SAMPLE) if run.spec.text is not None else []
    model = fresh_model(run.spec, captions, run.config.seed)
    if model.conditioner.tokenizer is not None and current_world().is_first:
        model.conditioner.tokenizer.warn_of_cut(captions)
    place(run, model, device)
    optimizer = optim.adamw(
        model.parameters(),
        lr=train.lr,
        betas=train.betas,
        weight_decay=train.weight_decay,
        text=model.conditioner.text_parameters,
        text_lr=train.text_lr,
    )
    scaler = torch.amp.GradScaler(device.type, enabled=train.precision == "fp16")
    ema = Ema(model, half_life=train.ema.half_life, rampup=train.ema.rampup)
    profiles = [PowerEma(model, std=std) for std in train.ema.profiles]
    return TrainState(model, ema, optimizer, scaler, profiles=profiles)


def place(run: Run, model: ScoreModel, device: torch.device) -> None:
    """Brings a model to its device: whole, or this rank's rows of it.

    Raises:
        ValueError: if ranks that gather its weights together would have unequal shares of a batch, or it holds a
            parameter that cannot be sharded.
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
            f"{run.plan.microbatches} microbatches of {run.plan.microbatch} for {world.size} workers"
        )
    shard(model, world, gathered_type(run, device))


def gathered_type(run: Run, device: torch.device) -> torch.dtype:
    """In which a sharded model's weights are gathered: the training's, where autocast casts back what it computes in
    float32; on CPUs it does not, and norms take no short weights beside float32 images."""
    return DTYPES[run.config.train.precision] if device.type == "cuda" else torch.float32


def objective(run: Run) -> Objective:
    """The loss of the recipe."""
    train = run.config.train
    return Objective(
        batch=train.batch,
        microbatch=run.plan.microbatch,
        seed=run.config.seed,
        weighting=train.weighting,
        min_snr_gamma=train.min_snr_gamma,
        reduction=train.reduction,
        times=train.times or suited(run.spec.sde),
        condition_dropout=train.condition_dropout,
        flip=run.config.data.flip,
        precision=train.precision,
        data_range=run.config.data.range,
        latent=run.spec.latent,
        empty=None if run.text is None else torch.from_numpy(Contexts(run.text, run.manifest).empty.copy())[None],
    )


def schedule(run: Run) -> Schedule:
    """The lengths and frequencies of the recipe."""
    config = run.config
    return Schedule(
        steps=run.steps,
        lr=config.train.lr,
        warmup=config.train.warmup,
        decay=config.train.decay,
        clip=config.train.clip,
        log_every=config.log_every,
        validate_every=config.validation.every if len(run.held_out) else 0,
        sample_every=config.sampling.every,
        save_every=config.checkpoint_every,
        snapshot_every=config.train.ema.snapshots_every,
        patience=config.validation.patience,
    )


def validator(run: Run, world: World) -> Callable[[ScoreModel], dict[str, float]] | None:
    """The validation loss on the held-out rows, read anew each time; None without such rows."""
    if not len(run.held_out):
        return None
    reader = opened(run.manifest.path, run.manifest.fingerprint, run.text, run.latents)
    size = run.plan.microbatch

    def validate(model: ScoreModel) -> dict[str, float]:
        batches = held_out_batches(reader, run.held_out, size, run.feed.view, world.rank, world.size)
        spare = next(held_out_batches(reader, run.held_out, size, run.feed.view, 0, 1)) if has_shards(model) else None
        with evaluating(model, gathered_type(run, world.device)):
            return validation_loss(
                model, batches, run.config.seed, run.config.data.range, world, run.spec.latent, spare
            )

    return validate
