"""Emoji of a colour font as a folder of captioned images: twelve that differ in shape and colour, or all of them."""

import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from raysde.io.errors import name_place_of_write

BITMAP = 109
"""Font size of Noto Color Emoji's bitmaps of 136 x 128 pixels; it has no other."""
SIDE = 136
RANGES = (range(0x2300, 0x2C00), range(0x1F300, 0x1FB00))
CHOSEN = {
    "\N{HEAVY BLACK HEART}": ("a red heart", "red heart", "a heart in red"),
    "\N{GRINNING FACE}": ("a yellow face", "grinning face", "a smiling yellow face"),
    "\N{EVERGREEN TREE}": ("a green tree", "evergreen tree", "a tall fir tree"),
    "\N{SPOUTING WHALE}": ("a blue whale", "spouting whale", "a whale that spouts water"),
    "\N{JACK-O-LANTERN}": ("an orange pumpkin", "jack-o-lantern", "a carved pumpkin for halloween"),
    "\N{SOCCER BALL}": ("a black and white ball", "soccer ball", "a football"),
    "\N{BANANA}": ("a yellow banana", "banana", "a peeled banana"),
    "\N{RAINBOW}": ("a rainbow", "rainbow", "an arc of seven colours"),
    "\N{GRAPES}": ("purple grapes", "grapes", "a bunch of grapes"),
    "\N{TOP HAT}": ("a black hat", "top hat", "a tall black hat"),
    "\N{PIG FACE}": ("a pink pig", "pig face", "the face of a pig"),
    "\N{AUTOMOBILE}": ("a red car", "automobile", "a car seen from the side"),
}
"""Captions of each of the twelve emoji, the plainest first, which is also the label."""


class Emoji:
    """A colour emoji font with bitmaps, such as NotoColorEmoji.ttf.

    Raises:
        ValueError: if there is no such font.
    """

    def __init__(self, font: str | Path) -> None:
        try:
            self.font = ImageFont.truetype(str(font), BITMAP)
        except OSError as error:
            raise ValueError(f"{font} is no font with colour bitmaps of size {BITMAP}: {error}") from error

    def characters(self) -> list[str]:
        """Return all single characters of ``RANGES`` with a Unicode name and a bitmap."""
        named = (chr(code) for codes in RANGES for code in codes if unicodedata.name(chr(code), ""))
        return [each for each in named if self.font.getmask(each, mode="RGBA").getbbox()]

    def draw(self, character: str, size: int) -> Image.Image:
        """Draw an emoji on white as an RGB picture of ``size`` x ``size`` pixels."""
        picture = Image.new("RGB", (SIDE, SIDE), "white")
        ImageDraw.Draw(picture).text((0, 4), character, font=self.font, embedded_color=True, anchor="lt")
        return picture.resize((size, size), Image.Resampling.LANCZOS)


def list_captions(character: str) -> tuple[str, ...]:
    """Return the captions of an emoji: those in ``CHOSEN``, or else its Unicode name in lower case."""
    return CHOSEN.get(character, (unicodedata.name(character).lower(),))


def write_emoji(folder: Path, font: str | Path, *, size: int = 32, only: Sequence[str] = tuple(CHOSEN)) -> int:
    """Write PNG files and ``metadata.jsonl`` (file_name, text, label); return the number of images.

    Args:
        font: path of the font, see :class:`Emoji`.
        size: height and width in pixels.
        only: characters to draw; all of the font's if it is empty.

    Raises:
        ValueError: if the font cannot be read or has no bitmap of a character, or the folder holds other images.
    """
    emoji = Emoji(font)
    there = emoji.characters()
    if missing := sorted(set(only) - set(there)):
        raise ValueError(f"{font} has no bitmap of {missing[0]!r} ({unicodedata.name(missing[0], 'no name')})")
    names = {character: f"{ord(character):05x}.png" for character in only or there}
    folder.mkdir(parents=True, exist_ok=True)
    if others := sorted({path.name for path in folder.glob("*.png")} - set(names.values())):
        raise ValueError(f"{folder} holds {others[0]}, which is not of these emoji; remove the folder")
    with name_place_of_write("images", folder), (folder / "metadata.jsonl").open("w") as listing:
        for character, name in names.items():
            emoji.draw(character, size).save(folder / name)
            said = list_captions(character)
            listing.write(json.dumps({"file_name": name, "text": said, "label": said[0]}) + "\n")
    return len(names)
