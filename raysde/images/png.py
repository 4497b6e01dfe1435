"""The text chunks of PNG files: who wrote an image, and what it was drawn with."""

import json
from collections.abc import Mapping
from typing import Any

from PIL.PngImagePlugin import PngInfo

SOFTWARE = "raysde"
"""Value of the chunk ``Software`` in every PNG that raysde writes for people."""


def png_metadata(values: Mapping[Any, Any]) -> PngInfo:
    """Return the text chunks of a PNG that raysde writes: ``Software``, and a chunk for each value.

    Args:
        values: by keyword. Text is written as it is, other values as JSON, arrays as lists; None is left out.
    """
    chunks = PngInfo()
    for key, value in {"Software": SOFTWARE, **values}.items():
        if value is not None:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=_plain)
            # a file's name may hold bytes that are no text
            chunks.add_text(key, text.encode("utf-8", "backslashreplace").decode())
    return chunks


def _plain(value: Any) -> Any:
    """A number or an array of numpy or torch as Python has it, anything else by its name."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
