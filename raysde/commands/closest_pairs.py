"""Report of `raysde evaluate --metrics memorised` on the terminal, and its picture of the closest pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raysde.evaluation.memorisation import Pairs


def name_pairs(target: str) -> str:
    """Return the location of the picture of closest pairs, beside the report at ``target``."""
    folder, slash, name = target.rpartition("/")
    return f"{folder}{slash}{name.removesuffix('.json')}.memorised.png"


def save_pairs(pairs: Pairs, picture: str) -> None:
    """Write the closest pairs as a PNG file, two pairs in a row.

    Raises:
        OSError: naming the file, if it cannot be written.
    """
    from io import BytesIO

    from raysde.images.png import png_metadata
    from raysde.images.tensors import make_grid
    from raysde.io.filesystems import write_bytes

    content = BytesIO()
    make_grid(pairs.images, 4, captions=pairs.captions).save(content, "PNG", pnginfo=png_metadata({}))
    write_bytes(picture, content.getvalue())
    print(f"closest pairs {picture}")


def describe_memorisation(found: dict[str, Any]) -> str:
    """Describe the entry of a report: the shares of samples and of held-out images, and their common band."""
    lines = []
    for what, name in (("samples", "drawn"), ("held-out images", "held_out")):
        part = found[name]
        low, high = part["band"]
        lines.append(
            f"memorised: {part['share']:.1%} of {part['images']} {what}; "
            f"{low:.1%} to {high:.1%} are expected of unseen images (95%)"
        )
    return "\n".join(lines)
