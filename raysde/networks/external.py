"""User-written networks: any nn.Module named in the recipe."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from raysde.io.own_code import External, OwnCodeError
from raysde.networks.protocol import Image


@dataclass(frozen=True, kw_only=True)
class ExternalConfig(External):
    """A network of your own: an nn.Module class, or a function that returns one.

    It is called with ``kwargs`` and, where its signature has them, ``image`` (channels, height, width) and
    ``condition`` (width of the conditioning vectors or None). The module's ``forward`` takes the arguments of the
    U-Net's, ``(x, t, pooled, context, mask)``, or ``(x, t)`` for an unconditional network.
    """

    key: ClassVar[str] = "network"
    time_input: ClassVar[Literal["t"]] = "t"

    def build(self, image: Image, condition: int | None, context: int | None = None) -> nn.Module:
        """Import and call the factory, without ``context``: caption tokens are as wide as ``condition``.

        Raises:
            ValueError: if the name cannot be imported, or the factory does not return an nn.Module.
        """
        network = self.make_object(image=image, condition=condition)
        if not isinstance(network, nn.Module):
            raise OwnCodeError(f"{self.name} made a {type(network).__name__}, not an nn.Module")
        return network

    def check_size(self, height: int, width: int) -> None:
        """Accept any size, since only the user's network knows the sizes it takes."""
