"""An extension of griffe for `make docs`: fields show their default and their explanation, cross references a name.

Fields that are written as ``setting(default, "explanation")`` or ``field(default=..., metadata=describe_field("..."))``
keep their explanation in the code, where griffe does not look for it. ``:class:`name``` is Sphinx's, not Markdown's.
"""

import ast
import re
from typing import Any

from griffe import Attribute, Docstring, ExprCall, ExprKeyword, Extension, Object

ROLE = re.compile(r":\w+:`~?\.?([\w.]+)`")


def arguments(call: ExprCall) -> dict[str, Any]:
    """Return a call's arguments by name; positional ones are numbered."""
    return {
        given.name if isinstance(given, ExprKeyword) else str(position): (
            given.value if isinstance(given, ExprKeyword) else given
        )
        for position, given in enumerate(call.arguments)
    }


def read_text(expression: Any) -> str | None:
    """Return the text of a string literal, or of several that stand side by side; None if it is computed."""
    body = ast.parse(f"({expression})", mode="eval").body
    return str(body.value) if isinstance(body, ast.Constant) else None


class Fields(Extension):
    """Documents fields by what they say of themselves."""

    def on_attribute_instance(self, *, attr: Attribute, **_: Any) -> None:
        """Replace the call that makes a field by the field's default, and take its explanation for a docstring."""
        if not isinstance(attr.value, ExprCall):
            return
        maker, given = str(attr.value.function), arguments(attr.value)
        said: Any = None
        if maker == "setting":
            attr.value, said = given["0"], given["1"]
        elif maker == "field" and isinstance(given.get("metadata"), ExprCall):
            attr.value, said = given["default"], arguments(given["metadata"])["0"]
        elif maker == "Field" and "description" in given:
            attr.value, said = given.get("default", given.get("0")), given["description"]
        if said is not None and attr.docstring is None and (text := read_text(said)) is not None:
            attr.docstring = Docstring(text, parent=attr)

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """Show a cross reference of Sphinx as code."""
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(r"`\1`", obj.docstring.value)
