"""torch.compile block by block: what repeats is compiled once, so that starting up does not grow with depth."""

from collections.abc import Callable
from typing import Any

from torch import nn

from raysde.networks.protocol import Repeating

VARIANTS = 64
"""Compiled versions of one function after which torch gives up: a U-Net has one for each width and resolution."""


def compile_blocks(network: nn.Module, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compiles, in place, the blocks of ``network``, or the whole of one that names none.

    Names and values of its weights stay what they are. Blocks of the same shape share what was compiled.
    """
    for block in network.blocks() if isinstance(network, Repeating) else [network]:
        block.compile(backend=backend, recompile_limit=VARIANTS)
