"""Former names of modules, which user programs and stored files still import.

For example, a model registered earlier names ``raysde.serving`` as its loader. A former name resolves to the current
module itself, so classes are identical under both names.
"""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED = {
    "raysde.backlog": "raysde.tracking.backlog",
    "raysde.bulk": "raysde.inference.bulk",
    "raysde.captions": "raysde.conditioning.text",
    "raysde.checkpoint": "raysde.checkpoints.checkpoint",
    "raysde.classes": "raysde.data.classes",
    "raysde.cluster.carried": "raysde.cluster.errors",
    "raysde.cluster.mailbox": "raysde.cluster.trial_reports",
    "raysde.cluster.placement": "raysde.cluster.resources",
    "raysde.cluster.schedule": "raysde.cluster.tune_callbacks",
    "raysde.cluster.session": "raysde.cluster.connection",
    "raysde.cluster.settle": "raysde.cluster.tune_sampler",
    "raysde.cluster.shares": "raysde.cluster.resources",
    "raysde.cluster.sweep": "raysde.cluster.tune_training",
    "raysde.contract": "raysde.networks.diffusers_contract",
    "raysde.data.augment": "raysde.data.dataset.view",
    "raysde.data.blocks": "raysde.data.batches.arrow",
    "raysde.data.collection": "raysde.data.ingest.collect",
    "raysde.data.colour": "raysde.images.colour",
    "raysde.data.columns": "raysde.data.ingest.sources.columns",
    "raysde.data.convert": "raysde.data.ingest.convert",
    "raysde.data.decode": "raysde.images.codec",
    "raysde.data.derived": "raysde.data.dataset.precomputed",
    "raysde.data.digits": "raysde.data.ingest.digits",
    "raysde.data.emoji": "raysde.data.ingest.emoji",
    "raysde.data.filesystems": "raysde.io.filesystems",
    "raysde.data.gallery": "raysde.inference.image_files",
    "raysde.data.geometry": "raysde.images.geometry",
    "raysde.data.kinds": "raysde.images.kinds",
    "raysde.data.layout": "raysde.data.dataset.layout",
    "raysde.data.levels": "raysde.images.levels",
    "raysde.data.manifest": "raysde.data.dataset.manifest",
    "raysde.data.permutation": "raysde.data.dataset.permutation",
    "raysde.data.pictures": "raysde.images.open",
    "raysde.data.plan": "raysde.data.batches.plan",
    "raysde.data.prefetch": "raysde.data.batches.prefetch",
    "raysde.data.probe": "raysde.data.ingest.probe",
    "raysde.data.reader": "raysde.data.dataset.reader",
    "raysde.data.remarks": "raysde.images.remarks",
    "raysde.data.requests": "raysde.inference.prompt_file",
    "raysde.data.row_groups": "raysde.data.dataset.row_groups",
    "raysde.data.rows": "raysde.data.ingest.sources.text_rows",
    "raysde.data.samples": "raysde.data.ingest.samples",
    "raysde.data.shards": "raysde.data.dataset.shards",
    "raysde.data.sheet": "raysde.data.dataset.contact_sheet",
    "raysde.data.sources": "raysde.data.ingest.sources",
    "raysde.data.sources.arrays": "raysde.data.ingest.sources.arrays",
    "raysde.data.sources.book": "raysde.data.ingest.sources.book",
    "raysde.data.sources.catalogues": "raysde.data.ingest.sources.catalogues",
    "raysde.data.sources.descriptions": "raysde.data.ingest.sources.descriptions",
    "raysde.data.sources.folder": "raysde.data.ingest.sources.folder",
    "raysde.data.sources.listing": "raysde.data.ingest.sources.listing",
    "raysde.data.sources.members": "raysde.data.ingest.sources.members",
    "raysde.data.sources.metadata": "raysde.data.ingest.sources.metadata",
    "raysde.data.sources.ndarray": "raysde.data.ingest.sources.ndarray",
    "raysde.data.sources.parquet": "raysde.data.ingest.sources.parquet",
    "raysde.data.sources.records": "raysde.data.ingest.sources.records",
    "raysde.data.sources.sidecars": "raysde.data.ingest.sources.sidecars",
    "raysde.data.sources.webdataset": "raysde.data.ingest.sources.webdataset",
    "raysde.data.split": "raysde.data.dataset.split",
    "raysde.data.statistics": "raysde.data.ingest.statistics",
    "raysde.data.vectors": "raysde.data.dataset.precomputed_rows",
    "raysde.description": "raysde.checkpoints.description",
    "raysde.distributed_checkpoint": "raysde.checkpoints.writing",
    "raysde.documents": "raysde.io.documents",
    "raysde.drawing": "raysde.inference.sample",
    "raysde.drawn": "raysde.inference.samples",
    "raysde.editing": "raysde.sampling.inverse.restore",
    "raysde.edits": "raysde.inference.edit",
    "raysde.ema": "raysde.training.ema",
    "raysde.embeddings": "raysde.conditioning.embedder",
    "raysde.evaluation.bench": "raysde.evaluation.workload",
    "raysde.evaluation.drawn": "raysde.evaluation.generated",
    "raysde.evaluation.figures": "raysde.evaluation.compute",
    "raysde.evaluation.frechet": "raysde.evaluation.metrics.frechet",
    "raysde.evaluation.inception": "raysde.evaluation.features.inception",
    "raysde.evaluation.inception_score": "raysde.evaluation.metrics.inception_score",
    "raysde.evaluation.influence": "raysde.evaluation.metrics.jackknife",
    "raysde.evaluation.intervals": "raysde.evaluation.metrics.intervals",
    "raysde.evaluation.judge": "raysde.evaluation.features.classifier",
    "raysde.evaluation.kernel": "raysde.evaluation.metrics.kernel",
    "raysde.evaluation.lpips": "raysde.evaluation.metrics.lpips",
    "raysde.evaluation.neighbours": "raysde.evaluation.metrics.precision_recall",
    "raysde.evaluation.parts": "raysde.evaluation.chunks",
    "raysde.evaluation.reference": "raysde.evaluation.real",
    "raysde.evaluation.rows": "raysde.evaluation.selection",
    "raysde.evaluation.store": "raysde.io.atomic",
    "raysde.explain": "raysde.config.reference",
    "raysde.figures": "raysde.evaluation.report",
    "raysde.foreign": "raysde.io.errors",
    "raysde.generation": "raysde.models.sampling_defaults",
    "raysde.guidance": "raysde.inference.guidance",
    "raysde.hashing": "raysde.io.hashing",
    "raysde.history": "raysde.runs.history",
    "raysde.hooks": "raysde.runs.hooks",
    "raysde.identity": "raysde.runs.identity",
    "raysde.imaging": "raysde.inference.pixels",
    "raysde.latents": "raysde.models.autoencoder",
    "raysde.leaving": "raysde.commands.signals",
    "raysde.likelihood": "raysde.sampling.likelihood",
    "raysde.local": "raysde.runs.local",
    "raysde.losses": "raysde.training.losses",
    "raysde.mistakes": "raysde.io.invalid",
    "raysde.model": "raysde.models.spec",
    "raysde.muon": "raysde.training.muon",
    "raysde.names": "raysde.config.names",
    "raysde.near": "raysde.io.near",
    "raysde.networks.adapted": "raysde.networks.diffusers",
    "raysde.networks.regional": "raysde.networks.compile",
    "raysde.nodes": "raysde.config.sections",
    "raysde.objective": "raysde.training.objective",
    "raysde.optim": "raysde.training.optimizers",
    "raysde.outbox": "raysde.tracking.outbox",
    "raysde.parameterisation": "raysde.sde.parameterisation",
    "raysde.parts": "raysde.runs.build",
    "raysde.paths": "raysde.sampling.path",
    "raysde.pieces": "raysde.checkpoints.sharded_tensors",
    "raysde.pipelines": "raysde.interop",
    "raysde.pipelines.reading": "raysde.interop.import_pipeline",
    "raysde.pipelines.steps": "raysde.interop.discrete_steps",
    "raysde.pipelines.writing": "raysde.interop.export_pipeline",
    "raysde.places": "raysde.config.places",
    "raysde.posterior": "raysde.sampling.inverse.posterior",
    "raysde.posthoc": "raysde.training.posthoc_ema",
    "raysde.precomputed": "raysde.precompute.lookup",
    "raysde.pretrained": "raysde.conditioning.pretrained",
    "raysde.progress": "raysde.io.progress",
    "raysde.projections": "raysde.sampling.inverse.operators",
    "raysde.prompts": "raysde.conditioning.prompt_cache",
    "raysde.randomness": "raysde.rng",
    "raysde.recipe": "raysde.config.recipe",
    "raysde.registry.flavour": "raysde.registry.mlflow_model",
    "raysde.resuming": "raysde.runs.resume",
    "raysde.run": "raysde.runs.run",
    "raysde.sampler": "raysde.sampling.sampler",
    "raysde.schedules": "raysde.sde.schedules",
    "raysde.score": "raysde.models.score",
    "raysde.sde.exploding": "raysde.sde.ve",
    "raysde.sde.preserving": "raysde.sde.vp",
    "raysde.serving": "raysde.registry.serving",
    "raysde.settling": "raysde.tuning.sampler",
    "raysde.settling.halving": "raysde.tuning.sampler.successive_halving",
    "raysde.settling.space": "raysde.tuning.sampler.space",
    "raysde.settling.study": "raysde.tuning.sampler.study",
    "raysde.sharding": "raysde.distributed.fsdp",
    "raysde.sizes": "raysde.images.sizes",
    "raysde.snapshots": "raysde.checkpoints.ema_snapshots",
    "raysde.solvers": "raysde.sampling.solvers",
    "raysde.solvers.adaptive": "raysde.sampling.solvers.adaptive",
    "raysde.solvers.correctors": "raysde.sampling.solvers.correctors",
    "raysde.solvers.grids": "raysde.sampling.solvers.grids",
    "raysde.solvers.multistep": "raysde.sampling.solvers.multistep",
    "raysde.solvers.ode": "raysde.sampling.solvers.ode",
    "raysde.solvers.predictors": "raysde.sampling.solvers.predictors",
    "raysde.solvers.usual": "raysde.sampling.solvers.default",
    "raysde.solvers.walk": "raysde.sampling.solvers.trajectory",
    "raysde.spool": "raysde.tracking.spool",
    "raysde.state": "raysde.training.state",
    "raysde.storage": "raysde.checkpoints.storage",
    "raysde.sweep": "raysde.tuning.training",
    "raysde.sweep.halving": "raysde.tuning.training.asha",
    "raysde.sweep.ledger": "raysde.tuning.training.ledger",
    "raysde.sweep.plots": "raysde.tuning.training.plots",
    "raysde.sweep.ranking": "raysde.tuning.training.ranking",
    "raysde.sweep.search": "raysde.tuning.training.search",
    "raysde.sweep.settings": "raysde.tuning.training.settings",
    "raysde.sweep.space": "raysde.tuning.training.space",
    "raysde.sweep.sweep": "raysde.tuning.training.sweep",
    "raysde.sweep.watch": "raysde.tuning.training.progress",
    "raysde.times": "raysde.training.time_sampling",
    "raysde.train": "raysde.training.loop",
    "raysde.validation": "raysde.training.validation",
}
GONE = {
    "raysde.scheduler": (
        "raysde.scheduler is gone: diffusers.ScoreSdeVeScheduler draws the same images from what `raysde export` writes"
    ),
}
"""Removed modules without a successor, and the message that names an alternative."""
PACKAGES = {
    "raysde.conditioning": "raysde.conditioning.conditioner",
    "raysde.config": "raysde.config.loading",
    "raysde.data.batches": "raysde.data.batches.microbatch",
    "raysde.distributed": "raysde.distributed.world",
    "raysde.evaluation.features": "raysde.evaluation.features.networks",
    "raysde.images": "raysde.images.tensors",
    "raysde.inference": "raysde.inference.model",
    "raysde.precompute": "raysde.precompute.jobs",
}
"""Current packages named like a former module; the module's names are available from the package too."""


class Former(MetaPathFinder, Loader):
    """An import finder and loader for the modules in :data:`MOVED` and their submodules."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the import spec of a former name; None for any other name.

        Raises:
            ImportError: for a module in :data:`GONE`, with an alternative.
        """
        if fullname in GONE:
            raise ImportError(GONE[fullname], name=fullname)
        return None if current_name(fullname) is None else ModuleSpec(fullname, self)

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Replace the requested module by its current one in ``sys.modules``."""
        name = current_name(module.__name__)
        assert name is not None
        sys.modules[module.__name__] = importlib.import_module(name)


def current_name(name: str) -> str | None:
    """Return the current name of a module; None if ``name`` is not a former name."""
    parts = name.split(".")
    for count in range(len(parts), 1, -1):
        if moved := MOVED.get(".".join(parts[:count])):
            return ".".join([moved, *parts[count:]])
    return None


def find_in_former_module(package: str) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a package that was a module; it finds the names of that module."""

    def find(name: str) -> Any:
        if not name.startswith("__"):
            module = importlib.import_module(PACKAGES[package])
            if hasattr(module, name):
                return getattr(module, name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find


def import_on_first_use(package: str, homes: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a package whose names are imported on first use.

    Args:
        homes: names defined by each module.
    """
    module_of = {name: module for module, names in homes.items() for name in names}

    def find(name: str) -> Any:
        if name in module_of:
            return getattr(importlib.import_module(module_of[name]), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find


def install_finder() -> None:
    """Make former module names importable."""
    if not any(isinstance(finder, Former) for finder in sys.meta_path):
        sys.meta_path.insert(0, Former())
