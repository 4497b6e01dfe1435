"""A network that the user wrote: any nn.Module named in the recipe."""

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import nn

from raysde.networks.protocol import Image


@dataclass(frozen=True, kw_only=True)
class ExternalConfig:
    """A network of your own: an nn.Module class, or a function that makes one, and its keyword arguments.

    The class is called with ``kwargs`` and, where its signature has them, ``image`` (channels, height, width) and
    ``condition`` (width of the conditioning vectors or None). Its ``forward`` takes what the U-Net's takes:
    ``(x, t, pooled, context, mask)``, or ``(x, t)`` for an unconditional network.
    """

    kind: Literal["external"] = "external"
    factory: str = field(
        metadata={"description": "the class or function, as package.module:Name; every worker imports it"}
    )
    kwargs: dict[str, Any] = field(
        default_factory=dict,
        metadata={"description": "keyword arguments that it is called with, beside image and condition"},
    )

    time_input: ClassVar[Literal["t"]] = "t"

    def __post_init__(self) -> None:
        module, _, attribute = self.factory.partition(":")
        if not attribute or ":" in attribute or not all(module.split(".")):
            raise ValueError(f"factory must read 'package.module:Class', got {self.factory!r}")

    def build(self, image: Image, condition: int | None, context: int | None = None) -> nn.Module:
        """Import and call the factory; tokens of a caption are as wide as ``condition``, so ``context`` is not told.

        Raises:
            ValueError: if the name cannot be imported, or what it makes is no nn.Module.
        """
        make, call = self.found(image, condition)
        try:
            network = make(*call.args, **call.kwargs)
        except TypeError as error:
            raise ValueError(f"network.factory {self.factory!r} cannot be called with these kwargs: {error}") from error
        if not isinstance(network, nn.Module):
            raise ValueError(f"network.factory {self.factory!r} made a {type(network).__name__}, not an nn.Module")
        return network

    def check_size(self, height: int, width: int) -> None:
        """The user's network says itself which sizes it takes, when it is shown one."""

    def found(self, image: Image, condition: int | None) -> tuple[Callable[..., Any], inspect.BoundArguments]:
        """The factory, imported but not called, and its arguments.

        Raises:
            ValueError: if the name cannot be imported, or is nothing that takes these arguments.
        """
        name = f"network.factory {self.factory!r}"
        make = self._imported(name)
        if not callable(make):
            raise ValueError(f"{name} is a {type(make).__name__}, which cannot be called")
        try:
            signature = inspect.signature(make)
        except (TypeError, ValueError) as error:  # of classes written in C
            raise ValueError(f"{name} cannot be called: {error}") from error
        offered = {"image": image, "condition": condition}
        own = {key: value for key, value in offered.items() if key in signature.parameters}
        try:
            return make, signature.bind(**self.kwargs, **own)
        except TypeError as error:
            raise ValueError(f"{name} cannot be called with these kwargs: {error}") from error

    def _imported(self, name: str) -> Any:
        module, _, attribute = self.factory.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (Exception, SystemExit) as error:  # whatever the user's module raises
            line = " ".join(str(error).split())[:200]
            raise ValueError(f"{name} cannot be imported: {type(error).__name__}: {line}") from error
