"""Read image files of any supported format as upright 8-bit grey or sRGB pictures."""

import io
import warnings
from dataclasses import dataclass

from PIL import Image, ImageChops, UnidentifiedImageError

from raysde.images.codec import DAMAGE, check_pixels, shorten_message
from raysde.images.colour import Profile, find_profile, from_lab, is_srgb, to_srgb
from raysde.images.kinds import KINDS
from raysde.images.levels import convert_to_eight_bits, is_black
from raysde.images.remarks import Change

READING = 3
"""Version of the rules by which images are read; an ingest that was interrupted under another version is refused."""
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transposition that sets an image upright, by EXIF orientation; Pillow's exif_transpose fails on damaged EXIF data."""
GREY = ("1", "L", "LA", "La", "I", "F")
GREY_PNG = (0, 4)
"""PNG colour types of grey images; the mode does not tell, as Pillow decodes 16-bit grey with alpha as RGBA."""
TINT = 8
"""Difference of a pixel's channels in levels up to which an image is grey; JPEG and scanners add slight colour."""
ALPHA = ("LA", "RGBA")
UNKNOWN = f"it is not an image of a known kind ({', '.join(KINDS)})"


@dataclass(frozen=True)
class Read:
    """A picture of mode L or RGB, and the changes and guesses that reading its file took."""

    picture: Image.Image
    changes: frozenset[Change]


def open_picture(data: bytes, channels: int, *, background: int = 255) -> Image.Image:
    """Return the picture of 1 or 3 ``channels`` that :func:`read_picture` reads, without its changes.

    Raises:
        ValueError: as :func:`read_picture`.
    """
    return read_picture(data, channels, background=background).picture


def read_picture(data: bytes, channels: int, *, background: int = 255) -> Read:
    """Read an image file as a picture of mode L or RGB in sRGB, turned as its EXIF data asks.

    Animations and files of several pages give their first frame. 16-bit images keep their upper 8 bits and floats
    from 0 to 1 become 0 to 255. A colour profile is converted to sRGB, then transparent images are laid on a grey of
    ``background``, both at the file's own size. Other modes, such as CMYK and palettes, are converted too.

    Args:
        data: the bytes of an image file.
        channels: 1 for mode L, 3 for mode RGB.
        background: grey level from 0 to 255 under transparent pixels.

    Raises:
        ValueError: if the bytes are no complete image, have too many pixels, or pixels outside their type's range.
    """
    if not data:
        raise ValueError("the file is empty")
    opened, picture = _decode_file(data)
    changes: set[Change] = set()
    if getattr(opened, "is_animated", False):
        changes.add("frames")
    if is_black(picture):
        changes.add("black")
    picture, alpha = _split_transparency(convert_to_eight_bits(picture, opened, data))
    picture = _convert_to_srgb(picture, find_profile(opened, data), changes)
    picture = _flatten_transparency(picture, alpha, background, changes)
    picture = _convert_channels(picture, channels, changes)
    turn = TURNS.get(_read_orientation(opened))
    if turn is not None:
        picture = picture.transpose(turn)
    picture.info.clear()  # Pillow writes the comments and profile in it to every file that the picture is saved as
    return Read(picture, frozenset(changes))


def _decode_file(data: bytes) -> tuple[Image.Image, Image.Image]:
    """Return the opened file and its first frame, as Pillow decodes it.

    Raises:
        ValueError: with a one-line message, if a parser raises any exception of ``DAMAGE``.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            opened = Image.open(io.BytesIO(data), formats=KINDS)
            check_pixels(*opened.size)
            opened.load()
            picture = opened.copy()
            getattr(opened, "is_animated", False)  # reading it looks for a second frame, which may be damaged
            return opened, picture
    except UnidentifiedImageError:
        raise ValueError(UNKNOWN) from None
    except DAMAGE as error:
        raise ValueError(f"it cannot be decoded: {shorten_message(error)}") from error


def _read_orientation(opened: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8 if it is valid, or 1 (upright) if the EXIF data are damaged or absent.

    Pillow ignores damage to the EXIF data of a JPEG and raises for that of a PNG or WebP.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = opened.getexif().get(ORIENTATION, 1)
    except DAMAGE:
        return 1
    return value if isinstance(value, int) else 1


def _split_transparency(picture: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return a picture's colours in mode L, RGB, CMYK or LAB, and its alpha channel in mode L or None."""
    if picture.has_transparency_data:
        straight = {"La": "LA", "1": "LA", "L": "LA"}.get(picture.mode, "RGBA")
        picture = picture if picture.mode in ALPHA else picture.convert(straight)
        return picture.convert("L" if picture.mode == "LA" else "RGB"), picture.getchannel("A")
    if picture.mode == "1":
        return picture.convert("L"), None
    return picture if picture.mode in ("L", "CMYK", "LAB") else picture.convert("RGB"), None


def _convert_to_srgb(picture: Image.Image, profile: Profile | None, changes: set[Change]) -> Image.Image:
    """Convert a picture to sRGB in mode L or RGB; a profile that cannot be applied is ignored and counted."""
    if picture.mode == "LAB":
        return from_lab(picture)
    if profile is not None:
        try:
            result = to_srgb(picture, profile)
        except ValueError:
            changes.add("unusable")
        else:
            if result is not picture:
                changes.add("profile")
            picture = result
    if picture.mode == "CMYK":
        changes.add("ink")
    return picture if picture.mode == "L" else picture.convert("RGB")


def _flatten_transparency(
    picture: Image.Image, alpha: Image.Image | None, background: int, changes: set[Change]
) -> Image.Image:
    """Lay a picture on a grey background; blend sRGB levels, not linear light, as browsers do."""
    if alpha is None or alpha.getextrema() == (255, 255):
        return picture
    changes.add("transparent")
    return Image.composite(picture, Image.new(picture.mode, picture.size, (background,) * len(picture.mode)), alpha)


def _convert_channels(picture: Image.Image, channels: int, changes: set[Change]) -> Image.Image:
    coloured = picture.mode == "RGB" and _measure_tint(picture) > TINT
    if channels == 1 and coloured:
        changes.add("grey")
    if channels == 3 and not coloured:
        changes.add("colourless")
    return picture.convert("L" if channels == 1 else "RGB")


def _measure_tint(picture: Image.Image) -> int:
    """Return the largest difference, in levels, between the channels of one pixel."""
    red, green, blue = picture.split()
    most = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    least = ImageChops.darker(ImageChops.darker(red, green), blue)
    return max(level for level, count in enumerate(ImageChops.difference(most, least).histogram()) if count)


def is_grey(data: bytes) -> bool:
    """Return True if an image file's format stores grey, whatever its pixels are.

    Raises:
        ValueError: if the bytes are not an image of a supported format.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=KINDS) as opened:
                if opened.format == "PNG":
                    return data[25] in GREY_PNG
                return opened.mode in GREY or opened.mode.startswith("I;16")
    except DAMAGE as error:
        raise ValueError(UNKNOWN) from error


def is_plain(data: bytes, picture: Image.Image) -> bool:
    """Return True if any decoder reads the file's bytes as the pixels of ``picture``, so that the file can be kept."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data), formats=KINDS) as opened:
            upright = _read_orientation(opened) not in TURNS
            same = opened.mode == picture.mode and opened.size == picture.size and not opened.has_transparency_data
            kind = opened.format == "JPEG" or (opened.format == "PNG" and data[24] == 8)  # bits of a channel
            srgb = is_srgb(find_profile(opened, data), opened.mode)
            return same and upright and kind and srgb and getattr(opened, "n_frames", 1) == 1
