"""Image files as people have them, to upright 8-bit grey or RGB pictures."""

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
"""Version of the rules on this page; an ingest that was interrupted under other rules is not continued."""
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
"""What sets an image upright, by its EXIF orientation; Pillow's exif_transpose fails on EXIF data it cannot rewrite."""
GREY = ("1", "L", "LA", "La", "I", "F")
GREY_PNG = (0, 4)
"""PNG's colour types of grey; Pillow decodes grey with 16 bits and alpha as RGBA."""
TINT = 8
"""Channels of a grey image differ by no more levels: JPEG and scanners leave a trace of colour."""
ALPHA = ("LA", "RGBA")
UNKNOWN = f"it is not an image of a known kind ({', '.join(KINDS)})"


@dataclass(frozen=True)
class Read:
    """A picture of mode L or RGB, and what was changed or guessed on the way from the file to it."""

    picture: Image.Image
    changes: frozenset[Change]


def open_picture(data: bytes, channels: int, *, background: int = 255) -> Image.Image:
    """Return the picture that :func:`read_picture` reads.

    Raises:
        ValueError: as :func:`read_picture`.
    """
    return read_picture(data, channels, background=background).picture


def read_picture(data: bytes, channels: int, *, background: int = 255) -> Read:
    """Read an image file as a picture of mode L or RGB in sRGB, turned as its EXIF data asks.

    Of an animation or a file of several pages this is the first. 16-bit images keep their upper 8 bits and floats
    from 0 to 1 become 0 to 255. A colour profile is converted to sRGB, then transparent images are laid on a grey of
    ``background``, both at the file's own size. CMYK, palettes and the like are converted.

    Args:
        data: the bytes of an image file.
        channels: 1 or 3.
        background: grey level under what is transparent.

    Raises:
        ValueError: if the bytes are not a whole image, are too many pixels, or pixels of no known range.
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
    picture.info.clear()  # Pillow writes comments and profiles of the file that was opened into others
    return Read(picture, frozenset(changes))


def _decode_file(data: bytes) -> tuple[Image.Image, Image.Image]:
    """The opened file and the pixels of its first frame, as Pillow decodes them.

    Raises:
        ValueError: in one line, whatever a parser raises.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            opened = Image.open(io.BytesIO(data), formats=KINDS)
            check_pixels(*opened.size)
            opened.load()
            picture = opened.copy()
            getattr(opened, "is_animated", False)  # looks for a second frame
            return opened, picture
    except UnidentifiedImageError:
        raise ValueError(UNKNOWN) from None
    except DAMAGE as error:
        raise ValueError(f"it cannot be decoded: {shorten_message(error)}") from error


def _read_orientation(opened: Image.Image) -> int:
    """Return the value of the EXIF tag; damaged data say nothing, and neither do values of another type.

    Pillow passes over damage to the EXIF data of a JPEG and raises for that of a PNG or WebP.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = opened.getexif().get(ORIENTATION, 1)
    except DAMAGE:
        return 1
    return value if isinstance(value, int) else 1


def _split_transparency(picture: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """A picture of mode L, RGB, CMYK or LAB without transparency, and its transparency; None if it has none."""
    if picture.has_transparency_data:
        straight = {"La": "LA", "1": "LA", "L": "LA"}.get(picture.mode, "RGBA")
        picture = picture if picture.mode in ALPHA else picture.convert(straight)
        return picture.convert("L" if picture.mode == "LA" else "RGB"), picture.getchannel("A")
    if picture.mode == "1":
        return picture.convert("L"), None
    return picture if picture.mode in ("L", "CMYK", "LAB") else picture.convert("RGB"), None


def _convert_to_srgb(picture: Image.Image, profile: Profile | None, changes: set[Change]) -> Image.Image:
    """A picture of mode L or RGB in sRGB; a profile that cannot be used is passed over with a remark."""
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
    """A picture laid on a grey, in sRGB as browsers lay it."""
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
    """The most that a pixel's channels differ by."""
    red, green, blue = picture.split()
    most = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    least = ImageChops.darker(ImageChops.darker(red, green), blue)
    return max(level for level, count in enumerate(ImageChops.difference(most, least).histogram()) if count)


def is_grey(data: bytes) -> bool:
    """Return True if an image file holds no colour by its kind.

    Raises:
        ValueError: if it is not an image.
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
    """Return True if any decoder gives the pixels of ``picture`` for the file, and no other program changes them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data), formats=KINDS) as opened:
            upright = _read_orientation(opened) not in TURNS
            same = opened.mode == picture.mode and opened.size == picture.size and not opened.has_transparency_data
            kind = opened.format == "JPEG" or (opened.format == "PNG" and data[24] == 8)  # bits of a channel
            srgb = is_srgb(find_profile(opened, data), opened.mode)
            return same and upright and kind and srgb and getattr(opened, "n_frames", 1) == 1
