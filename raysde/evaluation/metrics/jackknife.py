"""How each image moves a figure, to first order: what its standard error comes from, and that of a paired difference.

Efron and Stein 1981, "The jackknife estimate of variance", and Hampel 1974, "The influence curve and its role in robust
estimation": a smooth figure differs from its expectation by a mean over images of their influences. Two figures of
images from the same noise beside the same real images differ by the mean of the differences, image by image, whose
variance is the smaller the more alike the images are.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from raysde.io.atomic import save_tensors


@dataclass(frozen=True)
class Influence:
    """Influences by what they are of, such as drawn and real images, which vary independently of each other.

    Attributes:
        values: of each source, [N] in float64, up to a constant.
        counts: how many independent ones of that source the figure is made of, N or more.
    """

    values: Mapping[str, Tensor]
    counts: Mapping[str, int]

    def __post_init__(self) -> None:
        assert self.values.keys() == self.counts.keys()

    @property
    def error(self) -> float:
        """The figure's standard error."""
        return math.sqrt(sum(found.var().item() / self.counts[name] for name, found in self.values.items()))

    def __sub__(self, other: "Influence") -> "Influence":
        """That of the difference of two figures, which share their sources one by one."""
        assert self.counts == other.counts
        return Influence({name: found - other.values[name] for name, found in self.values.items()}, self.counts)

    def save(self, path: Path) -> None:
        """Writes a safetensors file."""
        save_tensors(path, dict(self.values), {"counts": json.dumps(dict(self.counts))})

    @classmethod
    def load(cls, path: Path) -> "Influence":
        """Reads what :meth:`save` wrote."""
        with safe_open(path, "pt") as file:
            values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary
            return cls(values, json.loads(file.metadata()["counts"]))
