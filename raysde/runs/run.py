"""A recipe with its data set, and the checks that need no worker."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from raysde.checkpoints import checkpoint
from raysde.conditioning.conditioner import CLASS_WIDTH
from raysde.conditioning.external import ExternalText
from raysde.conditioning.text import PretrainedText, ScratchText, width_of
from raysde.config.loading import RunConfig, parse_recipe
from raysde.config.places import resolve_place
from raysde.data.batches.microbatch import Feed
from raysde.data.batches.plan import Plan
from raysde.data.classes import describe_difference, describe_unknown
from raysde.data.dataset.layout import Rows
from raysde.data.dataset.manifest import Manifest, read_manifest
from raysde.data.dataset.precomputed import Derived, Latents, TextEmbeddings
from raysde.data.dataset.reader import Reader
from raysde.data.dataset.split import split_rows
from raysde.data.dataset.verify import Verification, choose_verification, verify_here
from raysde.data.dataset.view import View
from raysde.images import tensors
from raysde.images.sizes import format_size, read_size
from raysde.models.external_sde import ExternalSDE
from raysde.models.sampling_defaults import add_default_solver
from raysde.models.spec import ModelSpec, complete_preconditioning
from raysde.networks import ExternalConfig
from raysde.precompute.lookup import choose_text_encoder, describe_unused, find_embeddings, find_latents, latent_spec_of
from raysde.runs.order import make_feed
from raysde.sampling.method import Method
from raysde.sampling.solvers.default import DEFAULT
from raysde.sde import VE, AnySDE
from raysde.training.external import ExternalLoss, ExternalOptimizer, ExternalSchedule

MAY_CHANGE = (
    "storage",
    "data.path",
    "data.verify",
    "data.block_megabytes",
    "data.block_steps",
    "data.nodes",
    "data.precomputed",
    "data.stream",
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
"""Prefixes of keys that may change when a run resumes; all other keys determine its numbers."""


@dataclass(frozen=True)
class Run:
    """A recipe with its data set.

    Attributes:
        config, manifest, spec: the recipe, the data set's manifest, and the description of the model.
        feed: microbatches: plan, training rows, and the view of the images.
        held_out: row numbers for validation, int64 [N].
        steps: length of the run in optimizer steps.
        text: precomputed caption embeddings, if they are used.
        latents: precomputed latents to train on; None for pixels.
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
        """Path, fingerprint and rows of the data set, and the names of precomputed folders by kind, for checkpoints."""
        found = {"path": self.manifest.path, "fingerprint": self.manifest.fingerprint, "rows": self.manifest.rows}
        precomputed: dict[str, Any] = {each.kind: each.name for each in (self.text, self.latents) if each is not None}
        return {**found, **precomputed}


def open_run(config: RunConfig) -> Run:
    """Open the data set of a recipe and check that they fit together.

    Raises:
        ValueError: naming the key that does not fit.
    """
    manifest = read_manifest(config.data.path, "data.path")
    text = choose_text_encoder(manifest, config.text, config.data.precomputed)
    if text is not config.text:
        config = parse_recipe({**config.model_dump(mode="json"), "text": None if text is None else asdict(text)})
    if text is not None and manifest.captions == 0:
        raise ValueError(
            f"text is set, but the shards at {config.data.path} hold no captions; set text=null, or ingest captions"
        )
    if config.class_conditional and manifest.classes == 0:
        raise ValueError(
            f"class_conditional is set, but the shards at {config.data.path} hold no labels"
            "; set class_conditional=false, or ingest labels"
        )
    check_labels(config.sampling.labels, manifest)
    view = make_view(config, manifest)
    rows, held_out = split_rows(manifest, config.validation.rows, config.seed)
    latents = None if config.latent is None else find_latents(manifest, config.latent.vae, view.shape)
    image = (manifest.channels, *view.shape) if view.shape is not None else manifest.image
    spec = ModelSpec(
        image=image if latents is None else latents.shape,
        data_range=config.data.range,
        data_std=config.data.std,
        sde=make_sde(config, manifest, rows, view),
        network=config.network,
        target=config.target,
        text=text,
        classes=manifest.classes if config.class_conditional else 0,
        class_names=manifest.labels if config.class_conditional else (),
        preconditioning=config.preconditioning,
        uncertainty=config.train.uncertainty == "learned",
        latent=None if latents is None or config.latent is None else latent_spec_of(latents, config.latent.vae),
        default_solver=DEFAULT,
    )
    Method(**config.sampling.settings).check(spec.process)
    steps = config.train.length.in_steps(config.train.batch, rows.count)
    conditions = {"captions": text is not None, "labels": config.class_conditional}
    fields = frozenset(name for name, wanted in conditions.items() if wanted)
    feed = replace(make_feed(config, manifest, rows, view), fields=fields)
    embeddings = find_embeddings(manifest, text, config.data.precomputed)
    return Run(config, manifest, spec, feed, held_out, steps, embeddings, latents)


def list_remarks(run: Run) -> list[str]:
    """Return the warnings about a run before it starts, a sentence each."""
    found = describe_unused(run.manifest, (run.text, run.latents), run.config.data.precomputed)
    if run.plan.batch > run.plan.rows:
        found.append(
            f"train.batch={run.plan.batch} is more than the {run.plan.rows} rows to train on: "
            "each step shows some of them more than once"
        )
    return found


def check_labels(labels: Sequence[str], manifest: Manifest) -> None:
    """Check the labels of a recipe's sample grid against its data set.

    Raises:
        ValueError: if a label is no class of the data set, or no row has it.
    """
    counts = manifest.statistics.get("labels")
    for label in labels:
        if label not in manifest.labels:
            raise ValueError(f"sampling.labels: {describe_unknown(label, manifest.classes, manifest.labels)}")
        if counts is not None and not counts.get(label):
            raise ValueError(f"sampling.labels: no row of {manifest.path} has the label {label!r}; leave it out")


def make_view(config: RunConfig, manifest: Manifest) -> View:
    """Return the crop and size of the images.

    Raises:
        ValueError: if the data set has buckets of another size than the recipe asks for.
    """
    size = config.data.image_size
    shape = None if size is None else read_size(size)
    square = manifest.size
    if square is not None and shape not in (None, square) and manifest.shapes - {None, square}:
        wanted, again = (
            (size, "") if isinstance(size, int) else (format_size(shape or square), " and without --buckets")
        )
        raise ValueError(
            f"data.image_size={wanted}, but the shards at {config.data.path} hold buckets about {square[0]}; "
            f"ingest again with --size {wanted}{again}"
        )
    return View(shape, config.data.crop, config.data.scale)


def make_sde(config: RunConfig, manifest: Manifest, rows: Rows, view: View) -> AnySDE | ExternalSDE:
    """Return the recipe's SDE; ``data.sigma_max_rows`` sets VE's sigma_max from a sample of the training images.

    Raises:
        ValueError: if the key is set and the SDE is not VE.
    """
    count = config.data.sigma_max_rows
    if not count:
        return config.sde
    if not isinstance(config.sde, VE):
        raise ValueError(f"data.sigma_max_rows={count} needs sde.kind=ve, got {config.sde.kind}; leave it out")
    chosen = np.sort(np.random.default_rng(config.seed).choice(rows.count, min(count, rows.count), replace=False))
    x0 = tensors.to_float(torch.from_numpy(Reader(manifest).read(rows[chosen], view).images), *config.data.range)
    return replace(config.sde, sigma_max=VE.for_data(x0, config.sde.sigma_min).sigma_max)


Verifier = Callable[[Manifest, Iterable[Derived], Verification], list[str]]
"""A check of a data set's files that returns remarks, see :func:`raysde.data.dataset.verify.verify_here`."""


def check_run(run: Run, verify: Verifier = verify_here) -> list[str]:
    """Check before a worker starts: shards against the manifest, the network, and the user's own code.

    Args:
        verify: checks the files of the data set and of its precomputed folders.

    Returns:
        Remarks for the user, a sentence each: what the check of the files left out.

    Raises:
        ValueError: naming the file or key at fault.
    """
    folders = [derived for derived in (run.text, run.latents) if derived is not None]
    remarks = verify(run.manifest, folders, choose_verification(run.config.data.verify, run.manifest.path))
    check_model(run.spec)
    train = run.config.train
    for part in (train.weighting, train.decay):
        if isinstance(part, ExternalLoss | ExternalSchedule):
            part.build()
    if isinstance(train.optimizer, ExternalOptimizer):
        train.optimizer.find_factory(params=[], lr=train.lr, weight_decay=train.weight_decay)
    return remarks


def identity_settings(run: Run) -> dict[str, Any]:
    """Return the settings that determine the numbers of a run and its length, as JSON values."""
    flat = run.config.flat()
    kept = {key: flat[key] for key in flat if key.startswith("train.length.") or not key.startswith(MAY_CHANGE)}
    return {**kept, "steps": run.steps, "fingerprint": run.manifest.fingerprint}


def check_model(spec: ModelSpec) -> None:
    """Build the network of a model without its weights; of a network in the user's own code, only find the factory.

    Raises:
        ValueError: naming the key that does not fit.
    """
    complete_preconditioning(spec)
    width = condition_width(spec)
    if isinstance(spec.network, ExternalConfig):
        spec.network.find_factory(image=spec.image, condition=width)
    else:
        with torch.device("meta"):
            spec.network.build(spec.image, width, None if spec.text is None else width)


def condition_width(spec: ModelSpec) -> int | None:
    """Return the width of a model's conditioning vectors, or None without conditions.

    Raises:
        ValueError: if its pretrained text encoder cannot be loaded.
    """
    from raysde.conditioning.pretrained import check_pretrained  # loads transformers

    if isinstance(spec.text, PretrainedText):
        return width_of(check_pretrained(spec.text))
    if isinstance(spec.text, ExternalText):
        return spec.text.build()[1].width
    return spec.text.width if isinstance(spec.text, ScratchText) else CLASS_WIDTH if spec.classes else None


def continue_run(run: Run, found: checkpoint.Description) -> Run:
    """Return the run that resumes from its own checkpoint, with the checkpoint's default solver.

    Raises:
        ValueError: as :func:`check_resumable`, or if that solver cannot draw the recipe's grids.
    """
    check_resumable(run, found)
    usual = found.spec.default_solver
    Method(**add_default_solver(run.config.sampling.settings, usual))  # type: ignore[arg-type]
    return replace(run, spec=replace(run.spec, default_solver=usual))


def check_resumable(run: Run, found: checkpoint.Description) -> None:
    """Check that a recipe may resume from a checkpoint.

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
    # a kind is named before the keys that only one of two kinds has
    for key in sorted(set(found.recipe) | set(now), key=lambda key: (not key.endswith(".kind"), key)):
        old = found.recipe[key] if key in found.recipe else run.config.default(key)
        new = now.get(key)
        if resolve_place(key, old) != resolve_place(key, new) and not key.startswith(MAY_CHANGE):
            raise ValueError(f"run {name!r} has {key}={old}, the recipe says {new}; choose another name to start anew")
    if found.data["microbatch"] != run.plan.microbatch:
        raise ValueError(
            f"run {name!r} has microbatches of {found.data['microbatch']}, the recipe makes {run.plan.microbatch}; "
            f"set train.microbatch={found.data['microbatch']}"
        )
    if found.data["fingerprint"] != run.manifest.fingerprint:
        raise ValueError(
            f"run {name!r} was trained on other data than {run.config.data.path} "
            f"(fingerprint {found.data['fingerprint']}, now {run.manifest.fingerprint}); restore that data, or "
            "choose another name"
        )
    # older checkpoints store no class names, only their number
    names = run.spec.class_names
    other = describe_difference(found.spec.class_names or names, names)
    if found.spec.classes != run.spec.classes:
        other = f"there were {found.spec.classes}, now {run.spec.classes}"
    if other is not None:
        raise ValueError(
            f"run {name!r} knows other classes than the data at {run.config.data.path}: {other}; choose another name"
        )
    for kind in ("text", "latents"):
        before, present = (data.get(kind) for data in (found.data, run.data_identity))
        if before != present:
            repair = "precompute those again" if before else "set data.precomputed=off"
            raise ValueError(
                f"run {name!r} was trained with {before or 'no'} precomputed {kind}, the recipe takes "
                f"{present or 'none'}; {repair}, or choose another name"
            )
