"""Dotted names of raysde, as the documentation gives them."""

import dataclasses
import importlib


def resolved(name: str) -> bool:
    """Return True if a dotted name is a module or an attribute in one, including dataclass fields."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError as error:
            # a missing library of an existing module does not make the name wrong
            if error.name is None or not error.name.startswith("raysde"):
                raise
            continue
        for part in parts[cut:]:
            declared = {field.name for field in dataclasses.fields(thing)} if dataclasses.is_dataclass(thing) else set()
            if not hasattr(thing, part):
                return part in declared and part == parts[-1]
            thing = getattr(thing, part)
        return True
    return False
