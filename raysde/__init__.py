"""Score-based generative models through stochastic differential equations, from a laptop to a Ray cluster."""

from typing import TYPE_CHECKING

from raysde import aliases

if TYPE_CHECKING:
    from raysde.inference.model import Model
    from raysde.registry import load
    from raysde.sampling.inverse.restore import edit, sdedit
    from raysde.sampling.likelihood import bits_per_dim, decode, encode, log_prob
    from raysde.sampling.method import Method
    from raysde.sampling.path import sample_path
    from raysde.sampling.sampler import sample
    from raysde.sde import EDM, SDE, VE, VP, Flow, SubVP

__version__ = "0.1.0"
__all__ = [
    "EDM",
    "SDE",
    "VE",
    "VP",
    "Flow",
    "Method",
    "Model",
    "SubVP",
    "bits_per_dim",
    "decode",
    "edit",
    "encode",
    "load",
    "log_prob",
    "sample",
    "sample_path",
    "sdedit",
]

# imported on first use, so that the mathematics does not import MLflow and transformers
__getattr__ = aliases.import_on_first_use(
    __name__,
    {
        "raysde.inference.model": ("Model",),
        "raysde.registry": ("load",),
        "raysde.sampling.inverse.restore": ("edit", "sdedit"),
        "raysde.sampling.likelihood": ("bits_per_dim", "decode", "encode", "log_prob"),
        "raysde.sampling.path": ("sample_path",),
        "raysde.sampling.method": ("Method",),
        "raysde.sampling.sampler": ("sample",),
        "raysde.sde": ("EDM", "SDE", "VE", "VP", "Flow", "SubVP"),
    },
)
aliases.install_finder()


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
