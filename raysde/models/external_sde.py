"""User-written SDEs: any subclass of SDE named in the recipe."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from raysde.io.own_code import External, OwnCodeError
from raysde.io.shapes import of_shape
from raysde.sde import SDE

QUANTITIES = ("log_alpha", "sigma2", "drift_rate", "diffusion2", "log_snr")
"""Functions of t that define a process, beside the inverse of the last."""


@dataclass(frozen=True, kw_only=True)
class ExternalSDE(External):
    """A process of your own: a subclass of raysde.sde.SDE, or a function that returns one."""

    key: ClassVar[str] = "sde"

    def build(self) -> SDE:
        """Import and call the factory.

        Raises:
            ValueError: if the name cannot be imported, or the result is not an SDE with tensors of the shape of t.
        """
        sde = self.make_object()
        if not isinstance(sde, SDE):
            raise OwnCodeError(f"{self.name} made a {type(sde).__name__}, not a raysde.sde.SDE")
        t = torch.linspace(sde.sample_floor, sde.ceiling, 3)
        with self.name_errors():
            found = {name: getattr(sde, name)(t) for name in QUANTITIES} | {"time_at": sde.time_at(sde.log_snr(t))}
        for name, value in found.items():
            if getattr(value, "ndim", 1):  # a constant may be one number for all times
                of_shape(value, t.shape, f"{self.name}: {name}")
        return sde
