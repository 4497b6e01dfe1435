"""The interface of networks and of their settings."""

from typing import Protocol, runtime_checkable

from torch import nn

from raysde.sde.parameterisation import TimeInput

Image = tuple[int, int, int]
"""The shape (channels, height, width) of an image."""


class NetworkConfig(Protocol):
    """Settings of a network: a frozen dataclass of JSON values, one member of ``raysde.networks.AnyNetwork``.

    `raysde config` prints the docstring of the class and the descriptions of its fields.
    """

    @property
    def kind(self) -> str:
        """Name in a recipe, a ``Literal`` with itself as the default."""

    @property
    def time_input(self) -> TimeInput:
        """Default time input, which the recipe or the SDE can override."""

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
        """Check that the network also takes images of a size that it was not built for.

        Args:
            height, width: size of the images in pixels.

        Raises:
            ValueError: if it does not.
        """


@runtime_checkable
class Repeating(Protocol):
    """A network that lists its repeated modules, which are compiled and sharded one by one."""

    def blocks(self) -> list[nn.Module]:
        """Return the repeated modules in the order of the forward pass."""
