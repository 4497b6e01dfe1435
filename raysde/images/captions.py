"""Text beside images: prompts and labels in matplotlib's DejaVu Sans, wrapped to the width that there is.

The text does not depend on the fonts of a machine. Characters that the font lacks, and scripts that are written from
right to left, are drawn as one box for all that are adjacent.
"""

import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

SMALLEST, LINES = 10, 3
"""Smallest height of the letters in pixels, and the lines of a caption at most."""
MARGIN = 3
MISSING, RIGHT_TO_LEFT = "□", ("R", "AL")


@dataclass(frozen=True)
class Caption:
    """Lines of text above adjacent images of a row.

    Attributes:
        column: of the first image.
        columns: number of the images.
        lines: none for nothing to say.
    """

    column: int
    columns: int
    lines: list[str]


def letter_size(width: int) -> int:
    """Return the height in pixels of the letters beside images of a width."""
    return max(SMALLEST, width // 16)


def line_height(size: int) -> int:
    """Return the distance of lines of letters of a size."""
    return size + -(-size // 4)


@lru_cache
def open_font(size: int) -> ImageFont.FreeTypeFont:
    """Return the font; the basic layout is the one that every installation of Pillow has."""
    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(file), size, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=4096)
def is_drawable(character: str) -> bool:
    """Return True if the font has a character, and it is written from left to right."""
    mask, none = (open_font(SMALLEST).getmask(each) for each in (character, "\uffff"))
    return (mask.size, bytes(mask)) != (none.size, bytes(none)) and (
        unicodedata.bidirectional(character) not in RIGHT_TO_LEFT
    )


def select_drawable(text: str) -> str:
    """Return text in one line, with a box for adjacent characters that cannot be drawn."""
    # format characters and variation selectors join emoji, and are nothing without them
    whole = unicodedata.normalize("NFC", " ".join(text.split()))
    kept = [
        each for each in whole if unicodedata.category(each) not in ("Cc", "Cf") and not "\ufe00" <= each <= "\ufe0f"
    ]
    return "".join("".join(run) if drawable else MISSING for drawable, run in groupby(kept, is_drawable))


def fit_text(text: str, size: int, width: int, lines: int) -> list[str]:
    """Return text in lines of at most ``width`` pixels, broken between words if possible; "…" if there are too many.

    Args:
        size: of the letters.
        lines: at most.
    """
    font, rest = open_font(size), select_drawable(text)
    found: list[str] = []
    while font.getlength(rest) > width:
        is_last = len(found) == lines - 1
        more = "…" if is_last else ""
        ends = range(1, len(rest))
        end = max(1, bisect_right(ends, float(width), key=lambda n: font.getlength(rest[:n].rstrip() + more)))
        if is_last:
            return [*found, rest[:end].rstrip() + more]
        cut = rest.rfind(" ", 1, end + 1)
        end = cut if cut > 0 else end
        found.append(rest[:end].rstrip())
        rest = rest[end:].lstrip()
    return [*found, rest] if rest else found


def arrange_captions(captions: Sequence[str], columns: int, width: int, gap: int) -> list[list[Caption]]:
    """Return what is written above each row of images.

    Nothing is written above images whose captions are those of the row above, and adjacent images of one caption have
    it in common: so prompts taken in turn are headings of columns, and a single prompt is a heading of all.

    Args:
        captions: one for each image.
        width: of an image, in pixels.
        gap: between images.
    """
    rows: list[list[Caption]] = []
    for start in range(0, len(captions), columns):
        row = list(captions[start : start + columns])
        above = list(captions[max(0, start - columns) : start][: len(row)])
        rows.append([])
        column = 0
        for caption, run in groupby(row if row != above else []):
            count = len(list(run))
            room = count * (width + gap) - gap - 2 * MARGIN
            rows[-1].append(Caption(column, count, fit_text(caption, letter_size(width), room, LINES)))
            column += count
    return rows


def header_height(row: Sequence[Caption], width: int) -> int:
    """Return the pixels that captions need above their images, which have a ``width``."""
    lines = max((len(caption.lines) for caption in row), default=0)
    return lines * line_height(letter_size(width)) + 2 * MARGIN if lines else 0


def draw_captions(picture: Image.Image, row: Sequence[Caption], top: int, width: int, gap: int) -> None:
    """Draw captions above a row of images.

    Args:
        top: of the images, in pixels.
        width, gap: of the images and between them.
    """
    size = letter_size(width)
    for caption in row:
        left, room = gap + caption.column * (width + gap), caption.columns * (width + gap) - gap
        above = top - MARGIN - len(caption.lines) * line_height(size)
        draw_lines(picture, caption.lines, size, (left, above, room))


def draw_lines(picture: Image.Image, lines: Sequence[str], size: int, box: tuple[int, int, int]) -> None:
    """Draw lines of black text, each in the middle.

    Args:
        size: of the letters.
        box: left, top and width of the room for them.
    """
    pen, font, (left, top, width) = ImageDraw.Draw(picture), open_font(size), box
    for number, line in enumerate(lines):
        place = left + max(0, int(width - font.getlength(line)) // 2), top + number * line_height(size)
        pen.text(place, line, fill="black", font=font)
