"""Random streams named by what they are for, so that no draw depends on what was drawn before it.

A stream is keyed by a seed and a path of integers, ``generator(seed, MICROBATCH, step, index)``: the same key gives the
same numbers in any process, on any number of workers, before and after a restart.
"""

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

RandomSource = torch.Generator | Sequence[torch.Generator] | None
"""One generator for the batch, one for each image, or torch's own."""


Noise = Callable[[Tensor], Tensor]
"""``noise(x)``: standard normal values of the shape, type and device of x."""


ORDER = 0
"""Streams of the data order, keyed by epoch and bucket."""
MICROBATCH = 1
"""Streams of training noise, keyed by step and microbatch."""
VALIDATION = 2
"""Streams of validation noise, keyed by the held-out row's number (the same at every validation)."""
IMAGE = 3
"""Streams of sampling noise, keyed by image number."""
INITIAL = 4
"""The stream that initialises the networks."""
SPLIT = 5
"""The stream that chooses the validation rows."""
TIMES = 6
"""Streams of the shared offset of stratified times, keyed by step."""
DROPOUT = 7
"""Streams of dropout layers, keyed by step and microbatch."""
PROBES = 8
"""The stream of likelihood probes and dequantisation noise."""
CHUNKS = 9
"""Streams that order the chunks of an epoch."""
BUCKETS = 10
"""Streams that mix the microbatches of image sizes, keyed by epoch."""
AUGMENT = 11
"""Streams of crops and caption choices, keyed by step and microbatch."""
EVALUATION = 12
"""Streams of what is random in an evaluation, keyed by what it is for."""


def key(seed: int, *path: int) -> int:
    """A 63-bit key for the stream ``path`` under ``seed``; equal inputs give equal keys on every machine."""
    words = b"".join(int(part).to_bytes(8, "little", signed=True) for part in (seed, *path))
    return int.from_bytes(hashlib.blake2b(words, digest_size=8).digest(), "little") >> 1


def generator(seed: int, *path: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator at the start of the stream ``path`` under ``seed``."""
    return torch.Generator(device).manual_seed(key(seed, *path))


def noise_from(source: RandomSource) -> Noise:
    """Standard normal noise from one generator for the whole batch, or from one for each image."""
    if source is None or isinstance(source, torch.Generator):
        return lambda x: torch.randn(x.shape, generator=source, device=x.device, dtype=x.dtype)

    def rows(x: Tensor) -> Tensor:
        if len(source) != len(x):
            raise ValueError(f"{len(source)} generators were given for {len(x)} images")
        drawn = [torch.randn(x.shape[1:], generator=g, device=g.device, dtype=x.dtype) for g in source]
        return torch.stack(drawn).to(x.device)

    return rows
