"""Text above images: where it stands, what of it, and that no pixel of an image is touched."""

from itertools import pairwise

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.ft2font import FT2Font
from PIL import ImageFont

from raysde.images.captions import fit_text, is_drawable, line_height, open_font, select_drawable
from raysde.images.tensors import CAPTIONED, make_grid
from tests.support.grids import enlarge, inked, locate_rows

LONG = "a very long prompt of a red bicycle that leans against a yellow wall in the evening sun, " * 3


def pictures(count: int, channels: int, height: int, width: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(count)
    return torch.randint(0, 255, (count, channels, height, width), generator=g, dtype=torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(8, 8), (5, 12), (120, 100)])
@pytest.mark.parametrize(
    ("captions", "columns", "rows"),
    [
        ("one two six one two six one", 3, ["111", "", ""]),  # a heading for each column
        ("one two six two one six", 3, ["111", "111"]),  # in another order: above each image
        ("one two six nil ten", 2, ["11", "11", "1."]),
        ("six six six six six", 2, None),  # one heading for all
        ("one two two one two two nil two two", 3, None),
    ],
)
def test_captions_stand_above_their_images_and_touch_none(channels, size, captions, columns, rows):
    """Every image is in its cell, pixel by pixel, and text is above the columns that have another caption than the row
    before; adjacent images of one caption have it in their middle."""
    said = captions.split()
    images = pictures(len(said), channels, *size)
    scale = -(-CAPTIONED // size[1])
    large, width = enlarge(images, scale), size[1] * scale
    above = locate_rows(make_grid(images, columns, captions=said), large, columns)
    if rows is not None:
        for pixels, wanted in zip(above, rows, strict=True):
            assert inked(pixels, columns, width) == [mark == "1" for mark in wanted.ljust(columns, ".")]
            assert wanted or len(pixels) == 1
        return
    first = columns - 2  # of two images with one heading
    middle = 1 + first * (width + 1) + width
    dark = np.flatnonzero((above[0] < 100).any(axis=(0, 2)))
    last = dark[dark > 1 + first * (width + 1)]
    assert abs((last.min() + last.max()) / 2 - middle) < 3
    assert len(above[1]) == 1
    if len(above) == 3 and columns == 3:
        assert inked(above[2], 3, width)[0]


@pytest.mark.parametrize("captions", [None, ["one", "one", "two", "two"]], ids=["alone", "above captions"])
def test_each_column_has_its_heading_above_everything(captions):
    """Equal neighbours have one each, a blank heading leaves its column blank, and no pixel of an image is touched."""
    images = pictures(4, 1, 8, 8)
    grid = make_grid(images, 2, captions=captions, headings=["same", "same"])
    above = locate_rows(grid, enlarge(images, 12), 2)
    plain = locate_rows(make_grid(images, 2, captions=captions, cell=CAPTIONED), enlarge(images, 12), 2)
    added = len(above[0]) - len(plain[0])
    assert inked(above[0][:added], 2, 96) == [True, True]
    left, right = above[0][:added, 1:97], above[0][:added, 98:194]
    assert np.array_equal(left, right)
    assert np.array_equal(above[0][added:], plain[0])
    assert all(np.array_equal(one, other) for one, other in zip(above[1:], plain[1:], strict=True))
    (blank, _) = locate_rows(make_grid(images, 2, headings=["", "H"]), enlarge(images, 12), 2)
    assert inked(blank, 2, 96) == [False, True]


def test_grids_without_captions_have_no_room_for_them():
    images = pictures(5, 1, 8, 8)
    assert make_grid(images, 3).size == (3 * 65 + 1, 2 * 65 + 1)
    plain = locate_rows(make_grid(images, 3, captions=["", "", "", "", ""]), enlarge(images, 12), 3)
    assert [len(each) for each in plain] == [1, 1]


@pytest.mark.parametrize("width", [96, 256, 512])
def test_text_stays_above_its_own_image_and_grows_with_it(width):
    """A caption that is too long takes some lines of its column and leaves the next ones white."""
    images = pictures(3, 3, 4, width)
    (above,) = locate_rows(make_grid(images, 3, captions=["", LONG, " "]), images, 3)
    assert inked(above, 3, width) == [False, True, False]
    assert (above[:, : width + 2] == 255).all()
    assert (above[:, 2 * width + 3 :] == 255).all()
    (short,) = locate_rows(make_grid(images, 3, captions=["", "H", ""]), images, 3)
    dark = np.flatnonzero((short < 100).any(axis=(1, 2)))
    height = dark[-1] - dark[0] + 1
    assert 0.6 * max(10, width / 16) <= height <= 1.0 * max(10, width / 16)  # a capital letter has 0.73 of the size


@pytest.mark.parametrize("width", [60, 90, 200, 1000])
@pytest.mark.parametrize(
    "text",
    [
        LONG,
        "two",
        "a b",
        "one two three four",
        "Donaudampfschifffahrtselektrizitätenhauptbetriebswerk",
        "x " * 90,
        "a\n\tb\x00 c",
    ],
)
@pytest.mark.parametrize("lines", [1, 2, 3])
def test_lines_hold_the_text_or_its_beginning(text, width, lines):
    """In the order of its words, each within the width; an ellipsis says that there is more."""
    found = fit_text(text, 10, width, lines)
    whole = " ".join(text.replace("\x00", "").split())
    assert len(found) <= lines
    file = f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf"
    font = ImageFont.truetype(file, 10, layout_engine=ImageFont.Layout.BASIC)
    assert all(font.getlength(line) <= width for line in found)
    cut = found[-1].endswith("…")
    shown = "".join(found).removesuffix("…").replace(" ", "")
    assert whole.replace(" ", "").startswith(shown)
    assert cut or shown == whole.replace(" ", "")
    if not cut and max(font.getlength(word) for word in whole.split()) <= width:
        assert " ".join(found) == whole  # broken between words
    if len(found) > 1:  # no line has room for the next word
        for line, after in pairwise(found):
            assert font.getlength(f"{line} {after.split()[0]}") > width or after.endswith("…")
    assert cut <= (len(found) == lines)


def test_characters_that_the_font_has_are_drawn():
    """As matplotlib's own reader of the font knows them, but for scripts from right to left."""
    font = FT2Font(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf")
    for code in [*range(0x21, 0x250), *range(0x380, 0x530), *range(0x2010, 0x2028), *range(0x2190, 0x2800, 7),
                 *range(0x3040, 0x30FF), *range(0x4E00, 0x9FFF, 997), *range(0x1F300, 0x1F9FF)]:  # fmt: skip
        assert is_drawable(chr(code)) == (font.get_char_index(code) != 0), hex(code)
    for character in "אבعر":
        assert font.get_char_index(ord(character))
        assert not is_drawable(character)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ein schöner Baum", "ein schöner Baum"), ("красный", "красный"), ("cafe\u0301", "café"),
        ("紅い自転車", "□"), ("a 🐋 and 🚲🚲", "a □ and □"), ("👨‍👩‍👧", "□"), ("אופניים red", "□ red"), ("☎\ufe0f", "☎"),
        ("  a\nb\tc\x07 ", "a b c"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_a_box(text, shown):
    assert select_drawable(text) == shown


def test_prompts_that_look_alike_are_not_taken_for_one():
    """Two prompts in a script that the font lacks have a box each, above their own columns."""
    images = pictures(2, 1, 8, 8)
    (above,) = locate_rows(make_grid(images, 2, captions=["紅", "青"]), enlarge(images, 12), 2)
    assert inked(above, 2, 96) == [True, True]


def test_letters_are_those_of_the_font_that_matplotlib_ships():
    """Not those of the machine, and laid out without libraries that it may lack."""
    assert open_font(10).getname() == ("DejaVu Sans", "Book")
    assert open_font(10).layout_engine == ImageFont.Layout.BASIC
    ascent, descent = open_font(40).getmetrics()
    assert ascent + descent <= line_height(40)
