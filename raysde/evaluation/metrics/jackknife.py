"""First-order influences of images on a metric, for its standard error and for that of a paired difference.

Efron and Stein 1981, "The jackknife estimate of variance", and Hampel 1974, "The influence curve and its role in robust
estimation": a smooth metric differs from its expectation by a mean over images of their influences. Two metrics of
images from the same noise and the same real images differ by the mean of the paired differences. The more alike the
images are, the smaller is its variance.
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
    """Influences by source; sources, such as drawn and real images, vary independently of each other.

    Attributes:
        values: influences of each source, float64 [N], up to a constant.
        counts: number of independent elements of that source in the metric, N or more.
    """

    values: Mapping[str, Tensor]
    counts: Mapping[str, int]

    def __post_init__(self) -> None:
        assert self.values.keys() == self.counts.keys()

    @property
    def error(self) -> float:
        """The metric's standard error."""
        return math.sqrt(sum(found.var().item() / self.counts[name] for name, found in self.values.items()))

    def __sub__(self, other: "Influence") -> "Influence":
        """Return the influence on the difference of two metrics whose sources are paired element by element."""
        assert self.counts == other.counts
        return Influence({name: found - other.values[name] for name, found in self.values.items()}, self.counts)

    def save(self, path: Path) -> None:
        """Write the influences to a safetensors file.

        Raises:
            OSError: naming the file, if it cannot be written.
        """
        save_tensors(path, dict(self.values), {"counts": json.dumps(dict(self.counts))})

    @classmethod
    def load(cls, path: Path) -> "Influence":
        """Read the influences from a file of :meth:`save`."""
        with safe_open(path, "pt") as file:
            values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary
            return cls(values, json.loads(file.metadata()["counts"]))
