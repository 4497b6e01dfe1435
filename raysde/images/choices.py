"""Ways to fit images to a size and to encode them; this module imports no torch, because help is printed from it."""

from typing import Literal

Fit = Literal["crop", "pad", "stretch", "short", "keep"]
FITS = {
    "crop": "scale the picture until it covers the size, then cut the size from its middle",
    "pad": "scale the picture until it fits inside the size, then add a border",
    "stretch": "scale each side to the size without keeping the proportions",
    "short": "scale the picture until it covers the size, without cutting it",
    "keep": "leave the picture as it is",
}
Encode = Literal["auto", "keep", "png", "jpeg"]
ENCODINGS = {
    "auto": "keep files of unchanged images; write JPEG for JPEG sources larger than 64 pixels and PNG for all others",
    "keep": "keep the source file if it needs no conversion, else write PNG",
    "png": "PNG, which is lossless",
    "jpeg": "JPEG",
}
