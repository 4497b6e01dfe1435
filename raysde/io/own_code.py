"""Code of the user's own that a recipe or a checkpoint names: ``kind: external``, ``factory`` and ``kwargs``."""

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
"""The beginnings of names of files that are no code of the user's own."""


class OwnCodeError(ValueError):
    """A mistake in code of the user's own, which a run that is started again would meet again."""


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

    def make_object(self, **offered: Any) -> Any:
        """Import and call the factory.

        Args:
            offered: arguments that it is given if its signature has them.

        Raises:
            ValueError: as :meth:`find_factory`, or if it raises anything.
        """
        make, call = self.find_factory(**offered)
        with self.name_errors():
            return make(*call.args, **call.kwargs)

    def make_function(self, **offered: Any) -> Callable[..., Any]:
        """Import and call a factory of functions, and return one under :meth:`guard`.

        Raises:
            ValueError: as :meth:`make_object`, or if what it makes cannot be called.
        """
        function = self.make_object(**offered)
        if not callable(function):
            raise OwnCodeError(f"{self.name} made a {type(function).__name__}, which cannot be called")
        return self.guard(function)

    def guard(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function of the user's own whose errors :meth:`name_errors` names."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.name_errors():
                return function(*args, **kwargs)

        return call

    @contextmanager
    def name_errors(self) -> Iterator[None]:
        """Name the user's code, and the place in it, in what it raises here.

        Raises:
            ValueError: from the error; one of the machine, such as memory that is full, passes as it is.
        """
        try:
            yield
        except Exception as error:
            if is_of_machine(error):
                raise
            raise OwnCodeError(f"{self.name} raised {describe_own_error(error)}") from error

    def find_factory(self, **offered: Any) -> tuple[Callable[..., Any], inspect.BoundArguments]:
        """Return the factory, imported but not called, and its arguments.

        Raises:
            ValueError: if the name cannot be imported, or is nothing that takes these arguments.
        """
        make = self._import_factory()
        if not callable(make):
            raise OwnCodeError(f"{self.name} is a {type(make).__name__}, which cannot be called")
        try:
            signature = inspect.signature(make)
        except (TypeError, ValueError) as error:  # of classes written in C
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
        except (Exception, SystemExit) as error:  # whatever the user's module raises
            raise OwnCodeError(f"{self.name} cannot be imported: {describe_own_error(error)}") from error


def describe_own_error(error: BaseException) -> str:
    """Return an error's name and message, and the last line of the user's own that it passed, in one line."""
    said = " ".join(f"{type(error).__name__}: {error}".split())[:200].removesuffix(":")
    lines = traceback.extract_tb(error.__traceback__)
    own = [f" at {line.filename}:{line.lineno}" for line in lines if not line.filename.startswith(LIBRARIES)]
    return said + "".join(own[-1:])


def is_of_machine(error: Exception) -> bool:
    """Return True for errors that code of the user's own meets and does not make: a full memory, a device or another
    process that failed, and output that nobody reads."""
    torch = sys.modules.get("torch")
    kinds = (torch.OutOfMemoryError, torch.AcceleratorError) if torch else ()
    if isinstance(error, (MemoryError, BrokenPipeError, *kinds)):
        return True
    # what gloo raises has no type of its own
    raising = traceback.extract_tb(error.__traceback__)[-1].filename
    return Path("torch", "distributed").as_posix() in Path(raising).as_posix()
