"""Ways to fit images to a size and to store them; without torch, since help is printed from it."""

from typing import Literal

Fit = Literal["crop", "pad", "stretch", "short", "keep"]
FITS = {
    "crop": "scale the picture until it covers the size and cut that from the middle",
    "pad": "scale the picture until it fits into the size and add a border",
    "stretch": "scale both sides to the size",
    "short": "scale the picture until it covers the size and keep the proportions",
    "keep": "leave the picture as it is",
}
Encode = Literal["auto", "keep", "png", "jpeg"]
ENCODINGS = {
    "auto": "keep the file where nothing changed, else JPEG for what was JPEG and is larger than 64 pixels, else PNG",
    "keep": "keep the file where it can be, else PNG",
    "png": "PNG, which loses nothing",
    "jpeg": "JPEG",
}
