"""A process that the user wrote: any subclass of SDE named in the recipe."""

from dataclasses import dataclass
from typing import ClassVar

from raysde.io.own_code import External
from raysde.sde import SDE


@dataclass(frozen=True, kw_only=True)
class ExternalSDE(External):
    """A process of your own: a subclass of raysde.sde.SDE, or a function that makes one."""

    key: ClassVar[str] = "sde"

    def build(self) -> SDE:
        """Import and call the factory.

        Raises:
            ValueError: if the name cannot be imported, or what it makes is no SDE.
        """
        sde = self.made()
        if not isinstance(sde, SDE):
            raise ValueError(f"{self.name} made a {type(sde).__name__}, not a raysde.sde.SDE")
        return sde
