"""Former names of modules, which users' programs and stored files import.

A model that was registered earlier names ``raysde.serving`` as its loader, for example. A former name leads to the
module of today, of which there is one: its classes are the same under both names.
"""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED = {
    "raysde.captions": "raysde.conditioning.text",
    "raysde.checkpoint": "raysde.checkpoints.checkpoint",
    "raysde.contract": "raysde.networks.diffusers_contract",
    "raysde.data.blocks": "raysde.data.batches.arrow",
    "raysde.data.filesystems": "raysde.io.filesystems",
    "raysde.data.manifest": "raysde.data.dataset.manifest",
    "raysde.data.plan": "raysde.data.batches.plan",
    "raysde.data.reader": "raysde.data.dataset.reader",
    "raysde.data.shards": "raysde.data.dataset.shards",
    "raysde.data.sources": "raysde.data.ingest.sources",
    "raysde.description": "raysde.checkpoints.description",
    "raysde.drawing": "raysde.inference.sample",
    "raysde.editing": "raysde.sampling.inverse.restore",
    "raysde.edits": "raysde.inference.edit",
    "raysde.ema": "raysde.training.ema",
    "raysde.evaluation.bench": "raysde.evaluation.workload",
    "raysde.evaluation.frechet": "raysde.evaluation.metrics.frechet",
    "raysde.evaluation.inception": "raysde.evaluation.features.inception",
    "raysde.evaluation.intervals": "raysde.evaluation.metrics.intervals",
    "raysde.evaluation.judge": "raysde.evaluation.features.classifier",
    "raysde.evaluation.kernel": "raysde.evaluation.metrics.kernel",
    "raysde.evaluation.lpips": "raysde.evaluation.metrics.lpips",
    "raysde.evaluation.neighbours": "raysde.evaluation.metrics.precision_recall",
    "raysde.figures": "raysde.evaluation.report",
    "raysde.generation": "raysde.models.sampling_defaults",
    "raysde.guidance": "raysde.inference.guidance",
    "raysde.latents": "raysde.models.autoencoder",
    "raysde.likelihood": "raysde.sampling.likelihood",
    "raysde.local": "raysde.runs.local",
    "raysde.losses": "raysde.training.losses",
    "raysde.model": "raysde.models.spec",
    "raysde.muon": "raysde.training.muon",
    "raysde.networks.adapted": "raysde.networks.diffusers",
    "raysde.networks.regional": "raysde.networks.compile",
    "raysde.objective": "raysde.training.objective",
    "raysde.optim": "raysde.training.optimizers",
    "raysde.parameterisation": "raysde.sde.parameterisation",
    "raysde.paths": "raysde.sampling.path",
    "raysde.pipelines": "raysde.interop",
    "raysde.pipelines.reading": "raysde.interop.import_pipeline",
    "raysde.pipelines.steps": "raysde.interop.discrete_steps",
    "raysde.pipelines.writing": "raysde.interop.export_pipeline",
    "raysde.posterior": "raysde.sampling.inverse.posterior",
    "raysde.posthoc": "raysde.training.posthoc_ema",
    "raysde.pretrained": "raysde.conditioning.pretrained",
    "raysde.projections": "raysde.sampling.inverse.operators",
    "raysde.randomness": "raysde.rng",
    "raysde.recipe": "raysde.config.recipe",
    "raysde.run": "raysde.runs.run",
    "raysde.sampler": "raysde.sampling.sampler",
    "raysde.schedules": "raysde.sde.schedules",
    "raysde.score": "raysde.models.score",
    "raysde.sde.exploding": "raysde.sde.ve",
    "raysde.sde.preserving": "raysde.sde.vp",
    "raysde.serving": "raysde.registry.serving",
    "raysde.sharding": "raysde.distributed.fsdp",
    "raysde.snapshots": "raysde.checkpoints.ema_snapshots",
    "raysde.solvers": "raysde.sampling.solvers",
    "raysde.solvers.usual": "raysde.sampling.solvers.default",
    "raysde.solvers.walk": "raysde.sampling.solvers.trajectory",
    "raysde.state": "raysde.training.state",
    "raysde.storage": "raysde.checkpoints.storage",
    "raysde.times": "raysde.training.time_sampling",
    "raysde.train": "raysde.training.loop",
    "raysde.validation": "raysde.training.validation",
}
GONE = {
    "raysde.scheduler": (
        "raysde.scheduler is gone: diffusers.ScoreSdeVeScheduler draws the same images from what `raysde export` writes"
    ),
}
"""Former modules without a successor, and what to do instead."""
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
"""Packages of today whose name was a module's: the names in that module are found in the package too."""


class Former(MetaPathFinder, Loader):
    """Finds the modules of :data:`MOVED`, and those below them."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how a former name is loaded; None for any other.

        Raises:
            ImportError: for a module of :data:`GONE`, with what to do instead.
        """
        if fullname in GONE:
            raise ImportError(GONE[fullname], name=fullname)
        return None if today(fullname) is None else ModuleSpec(fullname, self)

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Put the module of today in the place of the one that was asked for."""
        name = today(module.__name__)
        assert name is not None
        sys.modules[module.__name__] = importlib.import_module(name)


def today(name: str) -> str | None:
    """Return the name that a module has today; None if ``name`` is no former one."""
    parts = name.split(".")
    for count in range(len(parts), 1, -1):
        if moved := MOVED.get(".".join(parts[:count])):
            return ".".join([moved, *parts[count:]])
    return None


def former_module(package: str) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a package that was a module: it finds the names of that module, once asked."""

    def find(name: str) -> Any:
        if not name.startswith("__"):
            module = importlib.import_module(PACKAGES[package])
            if hasattr(module, name):
                return getattr(module, name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find


def on_first_use(package: str, homes: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a package whose names are loaded on first use.

    Args:
        homes: the names that each module defines.
    """
    module_of = {name: module for module, names in homes.items() for name in names}

    def find(name: str) -> Any:
        if name in module_of:
            return getattr(importlib.import_module(module_of[name]), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find


def install() -> None:
    """Let former names be imported."""
    if not any(isinstance(finder, Former) for finder in sys.meta_path):
        sys.meta_path.insert(0, Former())
