"""A method's settings as pydantic checks them: in a recipe, in a model's description, and in a space of settings."""

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
    """Mark a text as the name of a solver that is registered when the text is read."""

    @property
    def choices(self) -> tuple[str, ...]:
        """The names that there are."""
        return tuple(SOLVERS)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_after_validator_function(self.known, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "enum": list(self.choices)}

    def known(self, name: str) -> str:
        """Return the name of a solver.

        Raises:
            PydanticCustomError: as of a Literal, if there is no such solver.
        """
        if name in SOLVERS:
            return name
        *others, last = (repr(each) for each in self.choices)
        raise PydanticCustomError(
            "literal_error", "Input should be {expected}", {"expected": f"{', '.join(others)} or {last}"}
        )


SolverName = Annotated[str, Registered()]


def reword_mistakes(refused: Callable[[Any], str]) -> WrapValidator:
    """Return a validator that gives the sentence of ``refused`` for whatever pydantic finds wrong with a value."""

    def worded(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise ValueError(refused(value)) from None

    return WrapValidator(worded)


def kind_of(setting: Setting) -> Any:
    """Return a setting's type, with its bounds."""
    if setting.choices:
        kind = SolverName if setting.name == "solver" else setting.type
    else:
        kind = Annotated[setting.kind, Field(ge=setting.least, le=setting.most, gt=setting.above)]
    return Annotated[kind, reword_mistakes(setting.describe_refusal)]


KINDS: dict[str, Any] = {name: kind_of(each) for name, each in SETTINGS.items()}
"""The type of every setting of a method."""


def make_key(setting: Setting) -> tuple[Any, Any]:
    """Return a setting's type, with its bounds, and its default and meaning, as a key of a recipe.

    A recipe holds finite numbers, so a bound that is infinite by default is null there.
    """
    kind = KINDS[setting.name]
    if setting.kind is float and math.isinf(setting.default):
        return Annotated[kind | None, BeforeValidator(_bound)], Field(None, description=f"{setting.meaning}; null: inf")
    return kind | None if setting.default is None else kind, Field(setting.default, description=setting.meaning)


def _bound(value: Any) -> Any:
    """Return None for infinity, however it is spelled."""
    return None if value in (math.inf, "inf") else value
