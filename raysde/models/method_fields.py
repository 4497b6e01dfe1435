"""A method's settings as pydantic checks them: in a recipe, in a model's description, and in a space of settings."""

import math
from typing import Annotated, Any

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
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
KINDS: dict[str, Any] = {name: SolverName if name == "solver" else each.type for name, each in SETTINGS.items()}
"""The type of every setting of a method."""


def key_of(setting: Setting) -> tuple[Any, Any]:
    """Return a setting's type, with its bounds, and its default and meaning, as a key of a recipe.

    A recipe holds finite numbers, so a bound that is infinite by default is null there.
    """
    bounds = Field(ge=setting.least, le=setting.most, gt=setting.above)
    kind = KINDS[setting.name] if setting.choices else Annotated[setting.kind, bounds]
    open_ended = setting.default is None or (setting.kind is float and math.isinf(setting.default))
    default = None if open_ended else setting.default
    return kind | None if open_ended else kind, Field(default, description=setting.meaning)
