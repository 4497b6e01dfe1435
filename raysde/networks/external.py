"""A network that the user wrote: any nn.Module named in the recipe."""

import importlib
import inspect
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import nn


@dataclass(frozen=True, kw_only=True)
class ExternalConfig:
    """Names a module class as ``package.module:Class`` and its keyword arguments.

    The class is called with ``kwargs`` and, where its signature has them, ``image`` (channels, height, width) and
    ``condition`` (width of the conditioning vectors or None). Its ``forward`` takes what the U-Net's takes:
    ``(x, t, pooled, context, mask)``, or ``(x, t)`` for an unconditional network.
    """

    kind: Literal["external"] = "external"
    factory: str
    kwargs: dict[str, Any] = field(default_factory=dict)

    time_input: ClassVar[Literal["t"]] = "t"

    def __post_init__(self) -> None:
        if self.factory.count(":") != 1:
            raise ValueError(f"factory must read 'package.module:Class', got {self.factory!r}")

    def build(
        self, image: tuple[int, int, int], condition: int | None, allow_code: bool, context: int | None = None
    ) -> nn.Module:
        """Imports and calls the factory; tokens of a caption are as wide as ``condition``, so ``context`` is not told.

        Raises:
            ValueError: if ``allow_code`` is False, the name cannot be imported, or what it makes is no nn.Module.
        """
        if not allow_code:
            raise ValueError(
                f"the checkpoint names code to import, {self.factory!r}; "
                "pass allow_code=True (--allow-code) if you trust it"
            )
        module_name, _, attribute = self.factory.partition(":")
        try:
            make = getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"network.factory {self.factory!r} cannot be imported: {error}") from error
        accepted = inspect.signature(make).parameters
        offered = {"image": image, "condition": condition}
        try:
            network = make(**self.kwargs, **{name: value for name, value in offered.items() if name in accepted})
        except TypeError as error:
            raise ValueError(f"network.factory {self.factory!r} cannot be called with these kwargs: {error}") from error
        if not isinstance(network, nn.Module):
            raise ValueError(f"network.factory {self.factory!r} made a {type(network).__name__}, not an nn.Module")
        return network
