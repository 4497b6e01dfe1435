"""Named random streams: the numbers for one purpose do not depend on what was drawn for another.

A stream is keyed by a seed and a path of integers, ``generator(seed, MICROBATCH, step, index)``. The same key gives the
same numbers in any process, on any number of workers, before and after a restart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:  # processes that only read data use keys, and start sooner without torch
    import torch
    from torch import Tensor

RandomSource: TypeAlias = "torch.Generator | Sequence[torch.Generator] | None"
"""One generator for the batch, one generator per image, or None for torch's global generator."""


Noise: TypeAlias = "Callable[[Tensor], Tensor]"
"""``noise(x)``: standard normal values with the shape, dtype and device of x."""


ORDER = 0
"""Streams of the data order, keyed by epoch and bucket."""
MICROBATCH = 1
"""Streams of training noise, keyed by step and microbatch."""
VALIDATION = 2
"""Streams of validation noise, keyed by the index of the held-out row (the same at every validation)."""
IMAGE = 3
"""Streams of sampling noise, keyed by image index."""
INITIAL = 4
"""Stream of the networks' initial weights."""
SPLIT = 5
"""Stream that selects the validation rows."""
TIMES = 6
"""Streams of the shared offset of stratified times, keyed by step."""
DROPOUT = 7
"""Streams of dropout layers, keyed by step and microbatch."""
PROBES = 8
"""Stream of likelihood probes and dequantisation noise."""
CHUNKS = 9
"""Streams that order the chunks of an epoch."""
BUCKETS = 10
"""Streams that mix the microbatches of image sizes, keyed by epoch."""
AUGMENT = 11
"""Streams of crops and caption choices, keyed by step and microbatch."""
EVALUATION = 12
"""Streams of random choices in an evaluation, keyed by purpose."""
LANES = 13
"""Streams that shuffle the rows of a lane's windows, keyed by window and bucket."""
ATTRIBUTES = 14
"""Streams of the dropout of single numeric attributes, keyed by step and microbatch."""
PLANES = 15
"""Streams of holes, noise and dropout of image conditions, keyed by step and microbatch."""
GIVEN = 16
"""Streams of the noise added to given image conditions, keyed by image index."""
WEIGHTS = 17
"""Stream of the first offset at which weighted rows are drawn."""


def key(seed: int, *path: int) -> int:
    """Return a 63-bit key of the stream ``path`` under ``seed``; equal inputs give equal keys on every machine."""
    words = b"".join(int(part).to_bytes(8, "little", signed=True) for part in (seed, *path))
    return int.from_bytes(hashlib.blake2b(words, digest_size=8).digest(), "little") >> 1


def generator(seed: int, *path: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a torch generator at the start of the stream ``path`` under ``seed``."""
    import torch

    return torch.Generator(device).manual_seed(key(seed, *path))


def noise_from(source: RandomSource) -> Noise:
    """Return a noise function of one generator per batch, or one per image (ValueError for another batch size)."""
    import torch

    if source is None or isinstance(source, torch.Generator):
        return lambda x: torch.randn(x.shape, generator=source, device=x.device, dtype=x.dtype)

    def rows(x: Tensor) -> Tensor:
        if len(source) != len(x):
            raise ValueError(f"{len(source)} generators were given for {len(x)} images; give one for each image")
        drawn = [torch.randn(x.shape[1:], generator=g, device=g.device, dtype=x.dtype) for g in source]
        return torch.stack(drawn).to(x.device)

    return rows
