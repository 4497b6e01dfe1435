"""Text chunks of PNG files: the program that wrote an image, and the settings that it was sampled with."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from raysde.images.codec import DAMAGE

SOFTWARE = "raysde"
"""Value of the chunk ``Software`` in every PNG that raysde writes for people."""


def png_metadata(values: Mapping[Any, Any]) -> PngInfo:
    """Return the text chunks of a PNG that raysde writes: ``Software``, and a chunk for each value.

    Args:
        values: values by keyword; text is written unchanged, other values as JSON, arrays as lists; None is left out.
    """
    chunks = PngInfo()
    for key, value in {"Software": SOFTWARE, **values}.items():
        if value is not None:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=_to_plain)
            # a file's name may hold bytes that are not valid text
            chunks.add_text(key, text.encode("utf-8", "backslashreplace").decode())
    return chunks


def is_own(path: Path) -> bool:
    """Return True for a PNG file that raysde wrote, judged by its chunk ``Software``."""
    try:
        with Image.open(path) as opened:
            return opened.format == "PNG" and opened.info.get("Software") == SOFTWARE
    except DAMAGE:
        return False


def _to_plain(value: Any) -> Any:
    """Return a number or array of numpy or torch as Python numbers, and any other value as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
