"""The user's own code in a recipe or checkpoint: ``kind: external``, ``factory`` and ``kwargs``."""

import functools
import importlib
import inspect
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

LIBRARIES = ("<", str(Path(__file__).parent.parent), *map(sysconfig.get_path, ("stdlib", "purelib", "platlib")))
"""Prefixes of file names that are not the user's own code."""


class OwnCodeError(ValueError):
    """Error in the user's own code, which a restarted run would meet again."""


@dataclass(frozen=True, kw_only=True)
class External:
    """A class or function ``package.module:Name`` with its keyword arguments; subclasses state its result.

    Raises:
        ValueError: if ``factory`` does not read package.module:Name.
    """

    kind: Literal["external"] = "external"
    factory: str = field(
        metadata={"description": "the class or function, as package.module:Name; every worker imports it"}
    )
    kwargs: dict[str, Any] = field(
        default_factory=dict, metadata={"description": "keyword arguments, beside those that raysde gives it"}
    )

    key: ClassVar[str]
    """Recipe key for messages."""

    def __post_init__(self) -> None:
        module, _, attribute = self.factory.partition(":")
        if not attribute or ":" in attribute or not all(module.split(".")):
            raise ValueError(f"factory must read 'package.module:Class', got {self.factory!r}")

    @property
    def name(self) -> str:
        """Name of the factory in messages."""
        return f"{self.key}.factory {self.factory!r}"

    def make_object(self, **offered: Any) -> Any:
        """Import and call the factory.

        Args:
            offered: further arguments; the factory receives those in its signature.

        Raises:
            ValueError: as :meth:`find_factory`, or if the factory raises any error.
        """
        make, call = self.find_factory(**offered)
        with self.name_errors():
            return make(*call.args, **call.kwargs)

    def make_function(self, **offered: Any) -> Callable[..., Any]:
        """Import and call a factory of functions, and return the function under :meth:`guard`.

        Raises:
            ValueError: as :meth:`make_object`, or if the result is not callable.
        """
        function = self.make_object(**offered)
        if not callable(function):
            raise OwnCodeError(f"{self.name} made a {type(function).__name__}, which cannot be called")
        return self.guard(function)

    def guard(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the user's function, with its errors named by :meth:`name_errors`.

        Raises:
            ValueError: by the function, from the user's error.
        """

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.name_errors():
                return function(*args, **kwargs)

        return call

    @contextmanager
    def name_errors(self) -> Iterator[None]:
        """Name the user's code and its line in errors raised inside this context.

        Raises:
            ValueError: from the error. Errors of the machine, such as out of memory, pass unchanged.
        """
        try:
            yield
        except Exception as error:
            if is_of_machine(error):
                raise
            raise OwnCodeError(f"{self.name} raised {describe_own_error(error)}") from error

    def find_factory(self, **offered: Any) -> tuple[Callable[..., Any], inspect.BoundArguments]:
        """Return the factory, imported but not called, and its bound arguments.

        Raises:
            ValueError: if the factory cannot be imported, or does not take these arguments.
        """
        make = self._import_factory()
        if not callable(make):
            raise OwnCodeError(f"{self.name} is a {type(make).__name__}, which cannot be called")
        try:
            signature = inspect.signature(make)
        except (TypeError, ValueError) as error:  # raised for classes written in C
            raise OwnCodeError(f"{self.name} cannot be called: {error}") from error
        own = {key: value for key, value in offered.items() if key in signature.parameters}
        try:
            return make, signature.bind(**self.kwargs, **own)
        except TypeError as error:
            raise OwnCodeError(f"{self.name} cannot be called with these kwargs: {error}") from error

    def _import_factory(self) -> Any:
        module, _, attribute = self.factory.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (Exception, SystemExit) as error:  # the user's module may raise anything
            raise OwnCodeError(f"{self.name} cannot be imported: {describe_own_error(error)}") from error


def describe_own_error(error: BaseException) -> str:
    """Return an error's type, message and innermost line of the user's own code, as one line."""
    said = " ".join(f"{type(error).__name__}: {error}".split())[:200].removesuffix(":")
    lines = traceback.extract_tb(error.__traceback__)
    own = [f" at {line.filename}:{line.lineno}" for line in lines if not line.filename.startswith(LIBRARIES)]
    return said + "".join(own[-1:])


def is_of_machine(error: Exception) -> bool:
    """Return True for errors that the user's own code meets but does not cause: out of memory, a failed device or
    process, or a broken pipe."""
    torch = sys.modules.get("torch")
    kinds = (torch.OutOfMemoryError, torch.AcceleratorError) if torch else ()
    if isinstance(error, (MemoryError, BrokenPipeError, *kinds)):
        return True
    # gloo's errors have no type of their own
    raising = traceback.extract_tb(error.__traceback__)[-1].filename
    return Path("torch", "distributed").as_posix() in Path(raising).as_posix()
