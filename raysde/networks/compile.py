"""Block-wise torch.compile: repeated blocks are compiled once, so that start-up time does not grow with depth."""

from collections.abc import Callable
from typing import Any

from torch import nn

from raysde.networks.protocol import Repeating

VARIANTS = 64
"""Limit of compiled versions per function; a U-Net needs one for each width and resolution."""


def compile_blocks(network: nn.Module, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile the blocks of ``network`` in place, or the whole network if it is not :class:`Repeating`.

    Names and values of the weights stay the same. Blocks of the same shape share compiled code.
    """
    for block in network.blocks() if isinstance(network, Repeating) else [network]:
        block.compile(backend=backend, recompile_limit=VARIANTS)
