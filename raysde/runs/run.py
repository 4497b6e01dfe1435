"""A recipe with its data set, and the checks that need no worker."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from raysde.checkpoints import checkpoint
from raysde.conditioning.conditioner import CLASS_WIDTH
from raysde.conditioning.external import ExternalText
from raysde.conditioning.images import ColumnCondition
from raysde.conditioning.text import PretrainedText, ScratchText, width_of
from raysde.config.loading import RunConfig, parse_recipe
from raysde.config.places import drop_data_places, resolve_place
from raysde.data.batches.feed import Feed
from raysde.data.batches.plan import BatchPlan
from raysde.data.classes import describe_difference, describe_unknown
from raysde.data.condition_column import CONDITION
from raysde.data.dataset.layout import Rows
from raysde.data.dataset.manifest import Manifest
from raysde.data.dataset.precomputed import Derived, Latents, TextEmbeddings
from raysde.data.dataset.selection import Selection
from raysde.data.dataset.source_rows import MixedRows
from raysde.data.dataset.verify import Verification, choose_verification, verify_here
from raysde.data.dataset.versions import choose_version
from raysde.data.dataset.view import View
from raysde.images import tensors
from raysde.images.sizes import format_size, read_size
from raysde.models.external_sde import ExternalSDE
from raysde.models.sampling_defaults import add_default_solver
from raysde.models.second_images import find_condition
from raysde.models.spec import ModelSpec, complete_preconditioning
from raysde.networks import ExternalConfig
from raysde.precompute.lookup import describe_unused, latent_spec_of
from raysde.runs.attributes import find_attributes
from raysde.runs.keeping import check_ranked
from raysde.runs.quality import check_quality
from raysde.runs.sources import RunSources, open_sources
from raysde.sampling.method import Method
from raysde.sampling.solvers.default import DEFAULT
from raysde.sde import VE, AnySDE
from raysde.training.external import ExternalLoss, ExternalOptimizer, ExternalSchedule

MAY_CHANGE = (
    "storage",
    "data.path",
    "data.version",
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
    "train.on_bad_step",
    "train.bad_steps.",
    "train.ema.snapshots_every",
    "validation.every",
    "validation.patience",
    "validation.metrics",
    "validation.where",
    "validation.delay",
    "validation.actors",
    "validation.cpus",
    "validation.gpus",
    "sampling.",
    "resources.",
    "tracking.",
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
    "keep.newest",
    "keep.best",
    "keep.every",
    "publish",
)
"""Prefixes of keys that may change when a run resumes; all other keys determine its numbers."""


@dataclass(frozen=True)
class Run:
    """A recipe with its data set.

    Attributes:
        config, manifest, spec: the recipe, the manifest of all its data, and the description of the model.
        feed: microbatches: plan, training rows, and the view of the images.
        held_out: row numbers for validation, int64 [N].
        steps: length of the run in optimizer steps.
        sources: the data sets.
    """

    config: RunConfig
    manifest: Manifest
    spec: ModelSpec
    feed: Feed
    held_out: np.ndarray
    steps: int
    sources: RunSources

    @property
    def plan(self) -> BatchPlan:
        return self.feed.plan

    @property
    def text(self) -> TextEmbeddings | None:
        """Precomputed caption embeddings, if they are used; those of the first of several data sets."""
        return self.sources.sources[0].text

    @property
    def latents(self) -> Latents | None:
        """Precomputed latents to train on, None for pixels; those of the first of several data sets."""
        return self.sources.sources[0].latents

    @property
    def selection(self) -> Selection | None:
        """Rows that the filter selects, None for all; of the first of several data sets."""
        return self.sources.sources[0].selection

    @property
    def data_identity(self) -> dict[str, Any]:
        """Path, fingerprint and rows of the data set, and the names of precomputed folders by kind, for checkpoints."""
        found = {"path": self.manifest.path, "fingerprint": self.manifest.fingerprint, "rows": self.manifest.rows}
        precomputed: dict[str, Any] = {each.kind: each.name for each in (self.text, self.latents) if each is not None}
        sources = self.sources.sources[0].selected if self.sources.is_plain else {"sources": self.sources.identity}
        return {**found, **precomputed, **sources}


def open_run(config: RunConfig) -> Run:
    """Open the data set of a recipe and check that they fit together.

    Raises:
        ValueError: naming the key that does not fit.
    """
    sources = open_sources(config)
    config = sources.pin_versions(config)
    manifest, text = sources.manifest, sources.choose_text(config.text, config.data.precomputed)
    if text is not config.text:
        config = parse_recipe({**config.model_dump(mode="json"), "text": None if text is None else asdict(text)})
    if text is not None and manifest.captions == 0:
        raise ValueError(
            f"text is set, but the shards at {manifest.path} hold no captions; set text=null, or ingest captions"
        )
    if config.class_conditional and manifest.classes == 0:
        raise ValueError(
            f"class_conditional is set, but the shards at {manifest.path} hold no labels"
            "; set class_conditional=false, or ingest labels"
        )
    check_labels(config.sampling.labels, manifest)
    view = make_view(config, manifest)
    rows, held_out = sources.split(config)
    check_ranked(config, len(held_out))
    check_quality(config, sources)
    sde = make_sde(config, sources, rows, view)
    if config.latent is not None:
        sources = sources.with_latents(config.latent, view.shape)
    sources = sources.with_embeddings(text, config.data.precomputed)
    latents = sources.sources[0].latents
    image = (manifest.channels, *view.shape) if view.shape is not None else manifest.image
    spec = ModelSpec(
        image=image if latents is None else latents.shape,
        data_range=config.data.range,
        data_std=config.data.std,
        sde=sde,
        network=config.network,
        target=config.target,
        text=text,
        classes=manifest.classes if config.class_conditional else 0,
        class_names=manifest.labels if config.class_conditional else (),
        preconditioning=config.preconditioning,
        uncertainty=config.train.uncertainty == "learned",
        latent=None if latents is None or config.latent is None else latent_spec_of(latents, config.latent.vae),
        default_solver=DEFAULT,
        attributes=find_attributes(config.attributes.names, manifest),
        image_condition=find_condition(config.image_condition, manifest),
    )
    Method(**config.sampling.settings).check(spec.process)
    steps = config.train.length.in_steps(config.train.batch, rows.count)
    conditions = {"captions": text is not None, "labels": config.class_conditional}
    fields = frozenset(name for name, wanted in conditions.items() if wanted)
    fields |= {f"attributes.{each.name}" for each in spec.attributes}
    fields |= {CONDITION} if isinstance(spec.image_condition, ColumnCondition) else set()
    feed = replace(sources.feed(config, rows, view), fields=fields)
    return Run(config, manifest, spec, feed, held_out, steps, sources)


def list_remarks(run: Run) -> list[str]:
    """Return the warnings about a run before it starts, a sentence each."""
    mode, folders = run.config.data.precomputed, run.sources.folders
    found = [remark for manifest, used in folders for remark in describe_unused(manifest, used, mode)]
    for manifest, _ in folders:
        newest = choose_version(manifest.path, None)
        if manifest.version < newest:
            found.append(f"the run is on version {manifest.version} of {manifest.path}; the newest is {newest}")
    found += describe_selection(run)
    if run.plan.batch > run.plan.rows:
        found.append(
            f"train.batch={run.plan.batch} is more than the {run.plan.rows} rows to train on: "
            "each step shows some of them more than once"
        )
    return found


def describe_selection(run: Run) -> list[str]:
    """Return sentences about the rows that the filters of the run's data sets select; none without a filter."""
    found = []
    for number, source in enumerate(run.sources.sources):
        if source.selection is None:
            continue
        key, rows, count = run.config.data.key(number, "filter"), source.manifest.rows, source.selection.count
        found.append(f"{key} selects {count} of {rows} rows ({100 * count / rows:.3g}%)")
        if run.manifest.rows_in("validation") and not len(run.held_out) and run.config.validation.rows != 0:
            found.append(f"{key} selects no validation row, so that the run has no validation")
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
            f"data.image_size={wanted}, but the shards at {manifest.path} hold buckets about {square[0]}; "
            f"ingest again with --size {wanted}{again}"
        )
    return View(shape, config.data.crop, config.data.scale)


def make_sde(config: RunConfig, sources: RunSources, rows: Rows | MixedRows, view: View) -> AnySDE | ExternalSDE:
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
    numbers = rows.first_epoch(chosen) if isinstance(rows, MixedRows) else rows[chosen]
    images = sources.open_reader(frozenset()).read(numbers, view).images
    x0 = tensors.to_float(torch.from_numpy(images), *config.data.range)
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
    remarks = [
        remark
        for manifest, folders in run.sources.folders
        for remark in verify(manifest, folders, choose_verification(run.config.data.verify, manifest.path))
    ]
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
    flat = {key: drop_data_places(key, value) for key, value in run.config.flat().items()}
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
        spec.network.find_factory(image=spec.network_image, condition=width)
    else:
        with torch.device("meta"):
            spec.network.build(spec.network_image, width, None if spec.text is None else width)


def condition_width(spec: ModelSpec) -> int | None:
    """Return the width of a model's conditioning vectors, or None without conditions.

    Raises:
        ValueError: if its pretrained text encoder cannot be loaded.
    """
    if isinstance(spec.text, PretrainedText):
        from raysde.conditioning.pretrained import check_pretrained  # loads transformers

        return width_of(check_pretrained(spec.text))
    if isinstance(spec.text, ExternalText):
        return spec.text.build()[1].width
    own = CLASS_WIDTH if spec.classes or spec.attributes else None
    return spec.text.width if isinstance(spec.text, ScratchText) else own


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
        one, other = (drop_data_places(key, resolve_place(key, value)) for value in (old, new))
        if one != other and not key.startswith(MAY_CHANGE):
            raise ValueError(f"run {name!r} has {key}={old}, the recipe says {new}; choose another name to start anew")
    if found.data["microbatch"] != run.plan.microbatch:
        raise ValueError(
            f"run {name!r} has microbatches of {found.data['microbatch']}, the recipe makes {run.plan.microbatch}; "
            f"set train.microbatch={found.data['microbatch']}"
        )
    if found.data["fingerprint"] != run.manifest.fingerprint:
        raise ValueError(
            f"run {name!r} was trained on other data than {run.manifest.path} "
            f"(fingerprint {found.data['fingerprint']}, now {run.manifest.fingerprint}); restore that data, or "
            "choose another name"
        )
    before, present = (data.get("sources", [data]) for data in (found.data, run.data_identity))
    for old, new, source in zip(before, present, run.sources.sources, strict=True):
        if old.get("selection") != new.get("selection"):
            raise ValueError(
                f"run {name!r} was trained on {old.get('selected')} rows that data.filter selected, other than the "
                f"{new.get('selected')} of now: the kept columns of {source.manifest.path} were changed; "
                "restore them, or choose another name"
            )
    # older checkpoints store no class names, only their number
    names = run.spec.class_names
    other = describe_difference(found.spec.class_names or names, names)
    if found.spec.classes != run.spec.classes:
        other = f"there were {found.spec.classes}, now {run.spec.classes}"
    if other is not None:
        raise ValueError(
            f"run {name!r} knows other classes than the data at {run.manifest.path}: {other}; choose another name"
        )
    for kind in ("text", "latents"):
        before, present = (data.get(kind) for data in (found.data, run.data_identity))
        if before != present:
            repair = "precompute those again" if before else "set data.precomputed=off"
            raise ValueError(
                f"run {name!r} was trained with {before or 'no'} precomputed {kind}, the recipe takes "
                f"{present or 'none'}; {repair}, or choose another name"
            )
