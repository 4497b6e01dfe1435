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
        values: by keyword. Text is written as it is, other values as JSON; None is left out.
    """
    chunks = PngInfo()
    for key, value in {"Software": SOFTWARE, **values}.items():
        if value is not None:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            # a file's name may hold bytes that are no text
            chunks.add_text(key, text.encode("utf-8", "backslashreplace").decode())
    return chunks
