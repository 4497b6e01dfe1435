"""Captions of images in a grid: prompts and labels in matplotlib's DejaVu Sans, wrapped to the available width.

The text does not depend on the fonts of a machine. A run of characters that the font lacks, or of a script that is
written from right to left, is drawn as one box.
"""

import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SMALLEST, LINES = 10, 3
"""Smallest height of the letters in pixels, and largest number of lines of a caption."""
MARGIN = 3
MISSING, RIGHT_TO_LEFT = "□", ("R", "AL")


@dataclass(frozen=True)
class Caption:
    """Lines of text above adjacent images of a row.

    Attributes:
        column: column of the first image, from 0.
        columns: number of images below the text.
        lines: lines of text; empty if the images have no caption.
    """

    column: int
    columns: int
    lines: list[str]


def letter_size(width: int) -> int:
    """Return the height in pixels of the letters above images of ``width`` pixels."""
    return max(SMALLEST, width // 16)


def line_height(size: int) -> int:
    """Return the distance in pixels between lines of letters of height ``size``."""
    return size + -(-size // 4)


@lru_cache
def open_font(size: int) -> ImageFont.FreeTypeFont:
    """Return the font at ``size`` pixels; the basic layout is the one that every installation of Pillow has."""
    import matplotlib  # only where text is drawn, since the import takes a quarter of a second

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
        size: height of the letters in pixels.
        lines: largest number of lines.
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
    """Return the captions to draw above each row of images.

    Adjacent images with the same caption share one, and a row with the captions of the row above has none. Prompts that
    repeat in every row therefore become headings of columns, and a single prompt becomes the heading of all images.

    Args:
        captions: caption of each image, row by row.
        columns: number of images in a row.
        width: width of an image in pixels.
        gap: width in pixels of the lines between images.
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


def arrange_headings(headings: Sequence[str], width: int) -> list[Caption]:
    """Return one heading for each column of images, even where neighbours have the same text.

    Args:
        headings: heading of each column.
        width: width of an image in pixels.
    """
    size, room = letter_size(width), width - 2 * MARGIN
    return [Caption(column, 1, fit_text(each, size, room, LINES)) for column, each in enumerate(headings)]


def header_height(row: Sequence[Caption], width: int) -> int:
    """Return the height in pixels of the captions above images of ``width`` pixels."""
    lines = max((len(caption.lines) for caption in row), default=0)
    return lines * line_height(letter_size(width)) + 2 * MARGIN if lines else 0


def draw_captions(picture: Image.Image, row: Sequence[Caption], top: int, width: int, gap: int) -> None:
    """Draw captions above a row of images.

    Args:
        top: distance in pixels from the picture's top to the images.
        width, gap: width in pixels of an image and of the lines between images.
    """
    size = letter_size(width)
    for caption in row:
        left, room = gap + caption.column * (width + gap), caption.columns * (width + gap) - gap
        above = top - MARGIN - len(caption.lines) * line_height(size)
        draw_lines(picture, caption.lines, size, (left, above, room))


def draw_lines(picture: Image.Image, lines: Sequence[str], size: int, box: tuple[int, int, int]) -> None:
    """Draw lines of black text, each centred in the box.

    Args:
        size: height of the letters in pixels.
        box: left, top and width of the box in pixels.
    """
    pen, font, (left, top, width) = ImageDraw.Draw(picture), open_font(size), box
    for number, line in enumerate(lines):
        place = left + max(0, int(width - font.getlength(line)) // 2), top + number * line_height(size)
        pen.text(place, line, fill="black", font=font)
