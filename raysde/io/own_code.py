"""Code of the user's own that a recipe or a checkpoint names: ``kind: external``, ``factory`` and ``kwargs``."""

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal


@dataclass(frozen=True, kw_only=True)
class External:
    """A class or function as ``package.module:Name``, and its keyword arguments; a subclass says what it must make."""

    kind: Literal["external"] = "external"
    factory: str = field(
        metadata={"description": "the class or function, as package.module:Name; every worker imports it"}
    )
    kwargs: dict[str, Any] = field(
        default_factory=dict, metadata={"description": "keyword arguments, beside those that raysde gives it"}
    )

    key: ClassVar[str]
    """Key of the recipe that messages name."""

    def __post_init__(self) -> None:
        module, _, attribute = self.factory.partition(":")
        if not attribute or ":" in attribute or not all(module.split(".")):
            raise ValueError(f"factory must read 'package.module:Class', got {self.factory!r}")

    @property
    def name(self) -> str:
        """The name in messages."""
        return f"{self.key}.factory {self.factory!r}"

    def made(self, **offered: Any) -> Any:
        """Import and call the factory.

        Args:
            offered: arguments that it is given if its signature has them.

        Raises:
            ValueError: as :meth:`found`, or if it does not take the values.
        """
        make, call = self.found(**offered)
        try:
            return make(*call.args, **call.kwargs)
        except TypeError as error:
            raise ValueError(f"{self.name} cannot be called with these kwargs: {error}") from error

    def made_callable(self, **offered: Any) -> Callable[..., Any]:
        """Import and call a factory of functions.

        Raises:
            ValueError: as :meth:`made`, or if what it makes cannot be called.
        """
        function = self.made(**offered)
        if not callable(function):
            raise ValueError(f"{self.name} made a {type(function).__name__}, which cannot be called")
        return function

    def found(self, **offered: Any) -> tuple[Callable[..., Any], inspect.BoundArguments]:
        """Return the factory, imported but not called, and its arguments.

        Raises:
            ValueError: if the name cannot be imported, or is nothing that takes these arguments.
        """
        make = self._imported()
        if not callable(make):
            raise ValueError(f"{self.name} is a {type(make).__name__}, which cannot be called")
        try:
            signature = inspect.signature(make)
        except (TypeError, ValueError) as error:  # of classes written in C
            raise ValueError(f"{self.name} cannot be called: {error}") from error
        own = {key: value for key, value in offered.items() if key in signature.parameters}
        try:
            return make, signature.bind(**self.kwargs, **own)
        except TypeError as error:
            raise ValueError(f"{self.name} cannot be called with these kwargs: {error}") from error

    def _imported(self) -> Any:
        module, _, attribute = self.factory.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (Exception, SystemExit) as error:  # whatever the user's module raises
            line = " ".join(str(error).split())[:200]
            raise ValueError(f"{self.name} cannot be imported: {type(error).__name__}: {line}") from error
