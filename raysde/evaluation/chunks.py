"""Measurements of a range of images; merged in any order they are the same, whichever process measured which range."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class MeasuredRange:
    """Measured values of the images ``first``, ``first + 1``, ..., by name, each [N, ...]."""

    first: int
    values: dict[str, Tensor]

    @property
    def count(self) -> int:
        return len(next(iter(self.values.values())))


def merge_parts(parts: Iterable[MeasuredRange]) -> dict[str, Tensor]:
    """Return the values of the images 0 to N - 1 by name, each [N, ...]; parts in any order must cover them once."""
    found = sorted(parts, key=lambda part: part.first)
    ends = [part.first + part.count for part in found]
    assert [part.first for part in found] == [0, *ends[:-1]], "parts are missing, or given twice"
    return {name: torch.cat([part.values[name] for part in found]) for name in found[0].values}
