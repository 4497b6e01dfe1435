"""The duties of a network and of its settings, whatever the architecture."""

from typing import Protocol, runtime_checkable

from torch import nn

from raysde.sde.parameterisation import TimeInput

Image = tuple[int, int, int]
"""(channels, height, width)"""


class NetworkConfig(Protocol):
    """Settings of a network: a frozen dataclass of JSON values, one member of ``raysde.networks.AnyNetwork``.

    Its docstring and the descriptions of its fields are what `raysde config` prints.
    """

    @property
    def kind(self) -> str:
        """Name in a recipe, a ``Literal`` with itself as the default."""

    @property
    def time_input(self) -> TimeInput:
        """Form of t that the network is told where neither the recipe nor the SDE asks for something else."""

    def build(self, image: Image, condition: int | None, context: int | None = None) -> nn.Module:
        """Return the network with fresh weights, called as ``network(x, t, pooled, context, mask)``.

        Args:
            image: shape of x without the batch.
            condition: width of the pooled conditioning vectors, None for an unconditional network.
            context: width of the caption's tokens, None without captions.

        Raises:
            ValueError: if the settings do not fit the images.
        """

    def check_size(self, height: int, width: int) -> None:
        """Raise ValueError unless the network takes images of this size too, whatever size it was built for."""


@runtime_checkable
class Repeating(Protocol):
    """A network that names its repeated modules, which are compiled and sharded one by one."""

    def blocks(self) -> list[nn.Module]:
        """Return the modules in the order of the forward pass."""
