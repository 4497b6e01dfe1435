"""pydantic types of the sampling settings, for recipes, model descriptions and search spaces."""

import math
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import no_info_after_validator_function

from raysde.sampling.method import SETTINGS, Setting
from raysde.sampling.solvers import SOLVERS


class Registered:
    """A pydantic annotation that accepts the names of solvers registered at validation time."""

    @property
    def choices(self) -> tuple[str, ...]:
        """Names of the registered solvers."""
        return tuple(SOLVERS)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_after_validator_function(self.known, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "enum": list(self.choices)}

    def known(self, name: str) -> str:
        """Return ``name`` if it is a registered solver.

        Raises:
            PydanticCustomError: if there is no such solver, with the message of a Literal.
        """
        if name in SOLVERS:
            return name
        *others, last = (repr(each) for each in self.choices)
        raise PydanticCustomError(
            "literal_error", "Input should be {expected}", {"expected": f"{', '.join(others)} or {last}"}
        )


SolverName = Annotated[str, Registered()]


def reword_mistakes(refused: Callable[[Any], str]) -> WrapValidator:
    """Return a validator that replaces pydantic's message for a value by ``refused(value)``."""

    def worded(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise ValueError(refused(value)) from None

    return WrapValidator(worded)


def kind_of(setting: Setting) -> Any:
    """Return the pydantic type of a setting, with its bounds."""
    if setting.choices:
        kind = SolverName if setting.name == "solver" else setting.type
    else:
        kind = Annotated[setting.kind, Field(ge=setting.least, le=setting.most, gt=setting.above)]
    return Annotated[kind, reword_mistakes(setting.describe_refusal)]


KINDS: dict[str, Any] = {name: kind_of(each) for name, each in SETTINGS.items()}
"""The pydantic type of every sampling setting."""


def make_key(setting: Setting) -> tuple[Any, Any]:
    """Return the type and the pydantic field of a setting, as a key of a recipe.

    Recipes hold finite numbers, so null replaces a bound that is infinite by default.
    """
    kind = KINDS[setting.name]
    if setting.kind is float and math.isinf(setting.default):
        return Annotated[kind | None, BeforeValidator(_bound)], Field(None, description=f"{setting.meaning}; null: inf")
    return kind | None if setting.default is None else kind, Field(setting.default, description=setting.meaning)


def _bound(value: Any) -> Any:
    """Return None for infinity, given as a number or as "inf", and any other value unchanged."""
    return None if value in (math.inf, "inf") else value
